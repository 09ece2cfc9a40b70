from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.memory_vm import MemoryVm
from tests.support.monitor_thread import monitor_thread
from tests.support.qemu import qemu_without_guest
from vmferry.client.qmp_client import QmpClient


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp"


@pytest.fixture
def vm() -> MemoryVm:
    return MemoryVm()


@pytest.fixture
def client(vm: MemoryVm, path: Path) -> Iterator[QmpClient]:
    with monitor_thread(vm, f"unix:{path}"), QmpClient.connect(f"unix:{path}", 10) as client:
        yield client


@pytest.fixture
def qemu_client(path: Path) -> Iterator[QmpClient]:
    with qemu_without_guest(path), QmpClient.connect(str(path), 10) as client:
        yield client
