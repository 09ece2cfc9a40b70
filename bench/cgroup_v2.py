"""CPU quotas by cgroup v2 on a Linux kernel of its own, in QEMU without KVM: `python -m bench.cgroup_v2 --help`.

For machines that have version 1. The VM's only file system is an archive with this Python and this vmferry.
"""

import json
import re
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

import vmferry
from bench import cgroup_v2_guest
from bench.samples import recording

LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "lib2to3", "tkinter", "ensurepip", "__pycache__"}
DEVICES = {"dev/console": (5, 1), "dev/null": (1, 3), "dev/urandom": (1, 9)}
PYTHON = Path(sys.executable).resolve()
INIT = f"""#!{PYTHON}
import sys
sys.executable = "{PYTHON}"
sys.path.insert(0, "/vmferry")
import cgroup_v2_guest
cgroup_v2_guest.main()
"""


class Archive:
    """An archive in the `newc` form that the kernel unpacks at boot (Documentation/driver-api/early-userspace)."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._directories: set[str] = set()
        self._count = 0

    def add(self, name: str, data: bytes, mode: int = stat.S_IFREG | 0o755, device: tuple[int, int] = (0, 0)) -> None:
        """Add a file and the directories that it is in."""
        for parent in reversed(Path(name).parents[:-1]):
            if str(parent) not in self._directories:
                self._directories.add(str(parent))
                self._add(str(parent), b"", stat.S_IFDIR | 0o755, (0, 0))
        self._add(name, data, mode, device)

    def finished(self) -> bytes:
        """Return the archive with its end."""
        self._add("TRAILER!!!", b"", 0, (0, 0))
        return bytes(self.data)

    def _add(self, name: str, data: bytes, mode: int, device: tuple[int, int]) -> None:
        self._count += 1
        encoded = name.encode() + b"\0"
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        for part in (b"070701" + b"".join(b"%08X" % field for field in fields) + encoded, data):
            self.data += part + bytes(-len(part) % 4)


def python_files() -> Iterator[Path]:
    """Yield this Python, its library, and the shared libraries that they need."""
    library = Path(sysconfig.get_path("stdlib"))
    modules = [p for p in library.rglob("*") if p.is_file() and not LEFT_OUT & set(p.relative_to(library).parts)]
    programs = [PYTHON, *(path for path in modules if path.suffix == ".so")]
    linked = subprocess.run(["ldd", *programs], capture_output=True, text=True).stdout
    yield from [PYTHON, *modules]
    yield from {Path(path) for path in re.findall(r"^\t(?:.* => )?(/\S+) \(", linked, re.MULTILINE)}


def build() -> bytes:
    """Return the archive."""
    archive = Archive()
    for path in python_files():
        archive.add(str(path).lstrip("/"), path.read_bytes())
    package = Path(vmferry.__file__).parent
    for path in sorted(package.rglob("*.py")):
        text = b"" if path == package / "__init__.py" else path.read_bytes()  # nothing is installed there
        archive.add(f"vmferry/vmferry/{path.relative_to(package)}", text)
    archive.add("vmferry/cgroup_v2_guest.py", Path(cgroup_v2_guest.__file__).read_bytes())
    archive.add("init", INIT.encode())
    for name in ("proc/.keep", "sys/.keep"):
        archive.add(name, b"")
    for name, device in DEVICES.items():
        archive.add(name, b"", stat.S_IFCHR | 0o666, device)
    return archive.finished()


def boot(kernel: Path, initrd: Path) -> Iterator[dict[str, object]]:
    """Yield what the VM says."""
    command = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024"),
        *("-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"),
        *("-kernel", str(kernel), "-initrd", str(initrd)),
        *("-append", "console=ttyS0 quiet panic=-1 random.trust_cpu=on"),
    ]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as vm:
        assert vm.stdout
        for line in vm.stdout:
            if line.startswith("RESULT "):
                yield json.loads(line.removeprefix("RESULT "))


@click.command()
@click.option(
    "--kernel", required=True, type=click.Path(exists=True, path_type=Path), help="A Linux that has cgroup 2."
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Append the raw samples to this file.")
def main(kernel: Path, output: Path | None) -> None:
    """Measure what threads get of a CPU under quotas, and whether everything is put back. Takes a minute or two."""
    restored = []
    with tempfile.NamedTemporaryFile(suffix=".initrd") as initrd, recording(output) as samples:
        initrd.write(build())
        initrd.flush()
        for result in boot(kernel, Path(initrd.name)):
            if "restored" in result:
                restored.append(result["restored"])
            else:
                share = result.pop("share")
                assert isinstance(share, float)
                samples.add("cpu_share", share, "CPUs", **result)
    if restored != [True] * 4:
        raise click.ClickException(f"not everything was put back: {restored}")


if __name__ == "__main__":
    main()
