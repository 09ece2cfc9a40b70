"""Stock QEMU: without a guest to compare with, and with the stress payload to migrate."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.wait import wait_until
from vmferry.guests.payload import STRESS_ELF
from vmferry.perf.lab import MONITOR_SOCKET

_ACCEPTS = "00010000"
"""The flag of a listening socket in /proc/net/unix: SO_ACCEPTCON."""


@contextmanager
def qemu_without_guest(path: Path, *, pretty: bool = False) -> Iterator[subprocess.Popen[bytes]]:
    """Run it with its QMP monitor at `path`."""
    qmp = f"unix:{path},server=on,wait=off"
    options = [
        "-machine",
        "none",
        "-accel",
        "tcg",
        "-nodefaults",
        "-display",
        "none",
        "-qmp-pretty" if pretty else "-qmp",
        qmp,
    ]
    with subprocess.Popen(["qemu-system-x86_64", *options], stderr=subprocess.DEVNULL) as qemu:
        try:
            wait_until(lambda: _listens(path))
            yield qemu
        finally:
            qemu.kill()


def _listens(path: Path) -> bool:
    """Tell without connecting: QEMU may reset the client that follows one which leaves before it is greeted."""
    entries = (line.split(maxsplit=7) for line in Path("/proc/net/unix").read_text(errors="replace").splitlines())
    return any(entry[3] == _ACCEPTS and entry[7:] == [str(path)] for entry in entries)


def stress_command(
    *,
    accel: str = "kvm",
    memory_mib: int = 128,
    vcpu_count: int = 1,
    stress_mib: int = 48,
    mode: str = "touch",
    drive_socket: str = "",
) -> list[str]:
    """A command for `Lab.start`: QEMU with the stress payload, and a second monitor if `drive_socket` is a path."""
    monitors = [MONITOR_SOCKET, *([drive_socket] if drive_socket else [])]
    return [
        *("qemu-system-x86_64", "-L", "/usr/share/qemu", "-L", "/usr/share/seabios"),
        *("-accel", accel, "-m", str(memory_mib), "-smp", str(vcpu_count), "-nodefaults", "-display", "none"),
        *("-bios", "qboot.rom"),  # which boots in a fifth of SeaBIOS's time
        *("-kernel", str(STRESS_ELF), "-append", f"ramsize={stress_mib} cpus={vcpu_count} mode={mode}"),
        *(word for path in monitors for word in ("-qmp", f"unix:{path},server=on,wait=off")),
    ]
