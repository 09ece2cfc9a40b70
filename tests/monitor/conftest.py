from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.qemu import qemu_without_guest
from vmferry.client.qmp_client import QmpClient


@pytest.fixture(scope="module")
def qemu_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The monitor of a QEMU without a guest; it remembers what a module's tests have had it do."""
    path = tmp_path_factory.mktemp("qemu") / "qmp"
    with qemu_without_guest(path):
        yield path


@pytest.fixture
def qemu_monitor(qemu_socket: Path) -> Iterator[QmpClient]:
    with QmpClient.connect(str(qemu_socket), 10) as client:
        yield client
