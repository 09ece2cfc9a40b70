"""Real VM processes whose output nobody takes, which holds none of them up; and what they say."""

import os
import pty
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.wait import wait_until
from vmferry.errors import CommandError
from vmferry.perf.lab import VM_COMMAND, Lab, VmProcess

pytestmark = pytest.mark.kvm

VM = ["--memory", "64M"]
BOOT = ["--append", "ramsize=16"]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


@pytest.fixture
def unread(tmp_path: Path) -> Iterator[Path]:
    """A FIFO that is full, and that nobody reads."""
    path = tmp_path / "unread"
    os.mkfifo(path)
    end = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    with suppress(BlockingIOError):
        while True:
            os.write(end, b"x" * 4096)
    yield path
    os.close(end)


def start(lab: Lab, name: str, *options: str, redirect: str = "") -> VmProcess:
    return lab.start(["sh", "-c", f'exec "$@" {redirect}', "sh", *VM_COMMAND, *VM, *options], name)


def address_of(destination: VmProcess) -> tuple[str, int]:
    [address] = destination.monitor.execute("query-migrate")["socket-address"]
    return address["host"], int(address["port"])


def migrate(source: VmProcess, destination: VmProcess) -> None:
    host, port = address_of(destination)
    source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 0, "downtime-limit": 1000})
    source.monitor.execute("migrate", {"uri": f"tcp:{host}:{port}"})
    wait_until(lambda: source.monitor.execute("query-migrate")["status"] == "completed")
    wait_until(lambda: destination.monitor.execute("query-status")["running"])


def test_nobody_needs_to_read_what_a_vm_prints(lab: Lab, unread: Path) -> None:
    source = start(lab, "source", *BOOT, "--serial", "stdio", "--trace", "*", redirect=f">{unread} 2>{unread}")
    destination = start(lab, "destination", "--incoming", "tcp:127.0.0.1:0", "--trace", "*", redirect=f"2>{unread}")
    source.wait_for_passes(2)
    source.monitor.execute("stop")
    source.monitor.execute("cont")
    migrate(source, destination)
    destination.check_memory()
    for vm in (source, destination):
        vm.process.terminate()
        assert vm.process.wait(30) == 143


def test_a_driver_whose_progress_nobody_reads_drives_on(lab: Lab) -> None:
    start(lab, "source", *BOOT)
    destination = start(lab, "destination", "--incoming", "tcp:127.0.0.1:0")
    host, port = address_of(destination)
    words = [*VM_COMMAND[:-3], "migrate", "--qmp", f"unix:{lab.directory}/source.qmp", f"tcp:{host}:{port}"]
    screen, terminal = pty.openpty()
    with suppress(BlockingIOError):  # as after Ctrl-S
        os.set_blocking(terminal, False)
        while True:
            os.write(terminal, b"x" * 4096)
    os.set_blocking(terminal, True)
    process = subprocess.run(words, stdout=subprocess.PIPE, stderr=terminal, timeout=60)
    assert process.returncode == 0
    assert destination.monitor.execute("query-status")["running"]
    os.close(terminal)
    os.close(screen)


def test_a_full_disk_keeps_no_guest_from_moving(lab: Lab) -> None:
    full = ["--journal", "/dev/full"]
    source = start(lab, "source", *BOOT, *full, "--serial", "file:/dev/full", redirect="2>/dev/full")
    destination = start(lab, "destination", "--incoming", "tcp:127.0.0.1:0", *full, redirect="2>/dev/full")
    source.wait_for_passes(1)
    with socket.create_connection(address_of(destination)) as stranger:
        stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
    migrate(source, destination)
    destination.check_memory()


def test_streams_that_were_closed_are_missed_by_nobody(lab: Lab) -> None:
    vm = start(lab, "vm", *BOOT, "--serial", "stdio", redirect=">&- 2>&-")
    vm.wait_for_passes(1)


@pytest.mark.parametrize("name", ["a\0b", "{directory}/fifo", "/dev/full", "{directory}"])
def test_no_file_name_holds_the_monitor_up(lab: Lab, name: str) -> None:
    vm = start(lab, "vm", "--paused")
    os.mkfifo(lab.directory / "fifo")
    arguments = {"val": 0, "size": 4096, "filename": name.format(directory=lab.directory)}
    for _ in range(70):  # more than there are places for clients
        with pytest.raises(CommandError):
            vm.monitor.execute("pmemsave", arguments)
    vm.monitor.execute("pmemsave", arguments | {"filename": str(lab.directory / "memory")})
    assert "Traceback" not in vm.errors()


@pytest.mark.parametrize("option", ["--serial=file:", "--journal="])
def test_a_vm_does_not_wait_for_a_reader_of_its_output(lab: Lab, option: str) -> None:
    os.mkfifo(fifo := lab.directory / "fifo")
    ended = subprocess.run([*VM_COMMAND, *VM, f"{option}{fifo}"], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    assert f"cannot write '{fifo}': nobody reads it; start its reader first" in ended.stderr


def test_an_operator_reads_what_happens(lab: Lab) -> None:
    source = start(lab, "source", *BOOT, "--qmp", "tcp:127.0.0.1:0")
    destination = start(lab, "destination", "--incoming", "tcp:127.0.0.1:0")
    host, port = address_of(destination)
    migrate(source, destination)
    for vm in (source, destination):
        vm.monitor.execute("quit")
        vm.process.wait(30)
    time = r"[0-9.]+ m?s"
    assert [line.removeprefix("vmferry: ") for line in source.errors().splitlines()] == [
        f"serves QMP at unix:{lab.directory}/source.qmp",
        Like(r"serves QMP at tcp:127\.0\.0\.1:[1-9][0-9]+"),
        Like(
            rf"the guest has left for tcp:{host}:{port} in {time}, stopped for {time}; its memory was (not )?verified"
        ),
        "the VM was ended by its monitor",
    ]
    assert [line.removeprefix("vmferry: ") for line in destination.errors().splitlines()] == [
        f"waits for a guest at tcp:{host}:{port}",
        f"serves QMP at unix:{lab.directory}/destination.qmp",
        Like(r"a guest begins to come from tcp:127\.0\.0\.1:[0-9]+"),
        Like(rf"the guest has come from tcp:127\.0\.0\.1:[0-9]+ in {time} and runs here"),
        "the VM was ended by its monitor",
    ]


class Like(str):
    """A text that equals all that its pattern matches."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and re.fullmatch(self, other) is not None

    __hash__ = str.__hash__
