import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.wait import wait_until
from vmferry.control.qmp_client import QmpClient


@pytest.fixture(scope="session")
def qemu_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The monitor of a QEMU without a guest."""
    path = tmp_path_factory.mktemp("qemu") / "qmp"
    qmp = f"unix:{path},server=on,wait=off"
    options = ["-machine", "none", "-accel", "tcg", "-nodefaults", "-display", "none", "-qmp", qmp]
    with subprocess.Popen(["qemu-system-x86_64", *options], stderr=subprocess.DEVNULL) as qemu:
        wait_until(path.exists)
        yield path
        qemu.kill()


@pytest.fixture
def qemu_monitor(qemu_socket: Path) -> Iterator[QmpClient]:
    with QmpClient.connect(str(qemu_socket), 10) as client:
        yield client
