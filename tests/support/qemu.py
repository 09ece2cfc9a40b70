"""A QEMU without a guest, to compare with."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.wait import wait_until


@contextmanager
def qemu_without_guest(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run it with its QMP monitor at `path`."""
    qmp = f"unix:{path},server=on,wait=off"
    options = ["-machine", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-qmp", qmp]
    with subprocess.Popen(["qemu-system-x86_64", *options], stderr=subprocess.DEVNULL) as qemu:
        try:
            wait_until(lambda: _listens(path))
            yield qemu
        finally:
            qemu.kill()


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
