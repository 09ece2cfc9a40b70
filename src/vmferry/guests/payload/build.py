"""Builds the stress payload: `python -m vmferry.guests.payload.build` writes `stress.elf` beside its sources.

Needs gcc and ld for x86-64, nothing else. The ELF file carries a note with a digest of the sources
and flags and the compiler's version, so that one can tell whether it was built from what lies beside it.
"""

import hashlib
import subprocess
import tempfile
from pathlib import Path

from vmferry.guests.payload import STRESS_ELF

DIRECTORY = STRESS_ELF.parent
SOURCES = tuple(DIRECTORY / name for name in ("boot.S", "stress.c", "options.c", "work.c"))
HEADER = DIRECTORY / "stress.h"
LINKER_SCRIPT = DIRECTORY / "stress.ld"

COMPILE = [
    "gcc",
    *("-m64", "-O2", "-std=c11", "-Wall", "-Wextra", "-Werror"),
    *("-ffreestanding", "-fno-pic", "-fno-pie", "-mno-red-zone", "-mgeneral-regs-only"),
    *("-fno-stack-protector", "-fcf-protection=none", "-fno-asynchronous-unwind-tables"),
]
LINK = [
    "ld",
    *("-m", "elf_x86_64", "-nostdlib", "-static", "--build-id=none"),
    *("-z", "noexecstack", "--no-warn-rwx-segments"),
]


def source_digest() -> str:
    """Return the SHA-256 of the sources and of the commands that build them."""
    digest = hashlib.sha256(" ".join([*COMPILE, *LINK]).encode())
    for path in (*SOURCES, HEADER, LINKER_SCRIPT):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def compiler_version() -> str:
    """Return the compiler's and linker's own words about their versions."""
    tools = (COMPILE[0], LINK[0])
    lines = [subprocess.check_output([tool, "--version"], text=True).splitlines()[0] for tool in tools]
    return "; ".join(lines)


def build(target: Path) -> None:
    """Compile and link the payload into `target`. Raises CalledProcessError."""
    note = f"sources {source_digest()} built with {compiler_version()}"
    with tempfile.TemporaryDirectory() as directory:
        objects = []
        for source in SOURCES:
            objects.append(str(Path(directory) / f"{source.stem}.o"))
            command = [*COMPILE, f'-DSOURCE="{note}"', "-c", source.name, "-o", objects[-1]]
            subprocess.run(command, check=True, cwd=DIRECTORY)
        subprocess.run([*LINK, "-T", str(LINKER_SCRIPT), *objects, "-o", str(target)], check=True)
        target.chmod(0o644)


if __name__ == "__main__":
    build(STRESS_ELF)
