"""What a VM refuses is put back once it lets, and tried no longer than there is a VM."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.support.qemu import qemu_without_guest
from tests.support.wait import wait_until
from vmferry.client.processes import Thread
from vmferry.client.qmp_client import QmpClient
from vmferry.control.undoing.changes import Change
from vmferry.control.undoing.way_in import vm_process

PATIENT = 60
"""Much less than it goes on for a VM that is there."""


@contextmanager
def putting_back(path: Path, process: Thread | None, change: Change) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "vmferry.control.undoing.put_back_later"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as putting:
        assert putting.stdin
        work = {"address": f"unix:{path}", "vm": process, "changes": [change]}
        putting.stdin.write(msgspec.json.encode(work))
        putting.stdin.close()
        try:
            yield putting
        finally:
            putting.kill()


@pytest.mark.qemu
@pytest.mark.parametrize("is_known", [True, False])
def test_it_ends_with_the_vm(tmp_path: Path, is_known: bool) -> None:
    path = tmp_path / "qmp"
    with qemu_without_guest(path) as qemu, QmpClient.connect(str(path)) as busy:
        process = vm_process(busy) if is_known else None
        with putting_back(path, process, Change("downtime-limit", 300, 1)) as putting:
            qemu.kill()
            qemu.wait()
            assert putting.wait(PATIENT) == 0


@pytest.mark.qemu
def test_it_puts_back_as_soon_as_it_can(tmp_path: Path) -> None:
    path = tmp_path / "qmp"
    with qemu_without_guest(path):
        with QmpClient.connect(str(path)) as busy:
            busy.execute("migrate-set-parameters", {"downtime-limit": 77})
            process = vm_process(busy)
            assert process
        with putting_back(path, process, Change("downtime-limit", 300, 77)) as putting:
            assert putting.wait(PATIENT) == 0
        with QmpClient.connect(str(path)) as after:
            wait_until(lambda: after.execute("query-migrate-parameters")["downtime-limit"] == 300)
