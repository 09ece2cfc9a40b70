"""`vmferry monitor` in a terminal and in pipes, at our monitor and at QEMU's."""

import os
import pty
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.memory_vm import MemoryVm
from tests.support.monitor_thread import monitor_thread
from tests.support.qemu import qemu_without_guest
from vmferry.cli.monitor import command

COMMAND = [sys.executable, "-m", "vmferry", "monitor"]
TIMEOUT_S = 20.0
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x07")


class Terminal:
    """A session at a terminal: what is typed, and what is on the screen."""

    def __init__(self, process: subprocess.Popen[bytes], side: int) -> None:
        self.process = process
        self._side = side
        self.screen = ""

    def type(self, text: str) -> None:
        os.write(self._side, text.encode())

    def expect(self, text: str) -> str:
        """Wait until the text appears; return what was on the screen before, and forget both."""
        assert self._shows(text, TIMEOUT_S), self.screen
        before, _, self.screen = self.screen.partition(text)
        return before

    def interrupt(self) -> None:
        """Interrupt until it is noticed: Python misses a signal that comes while it works on a key."""
        for _ in range(10):
            self.process.send_signal(signal.SIGINT)
            if self._shows("(vmferry) ", 2.0):
                return

    def _shows(self, text: str, timeout_s: float) -> bool:
        deadline_s = time.monotonic() + timeout_s
        while text not in self.screen:
            if not select.select([self._side], [], [], max(0, deadline_s - time.monotonic()))[0]:
                return False
            data = self._read()
            assert data, f"the program has ended without {text!r}: {self.screen}"
            self.screen += data
        return True

    def rest(self) -> str:
        """Return what there is to read until the program ends."""
        while data := self._read():
            self.screen += data
        return self.screen

    def _read(self) -> str:
        try:
            return ESCAPES.sub("", os.read(self._side, 65536).decode())
        except OSError:  # the other side is closed
            return ""


@contextmanager
def terminal(path: Path, home: Path) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    environment = os.environ | {"XDG_STATE_HOME": str(home), "TERM": "xterm", "COLUMNS": "80", "INPUTRC": "/dev/null"}
    process = subprocess.Popen(
        [*COMMAND, str(path)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Terminal(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "qmp"


@pytest.fixture
def vm(path: Path) -> Iterator[MemoryVm]:
    vm = MemoryVm()
    with monitor_thread(vm, f"unix:{path}"):
        yield vm


@pytest.fixture
def qemu(path: Path) -> Iterator[None]:
    with qemu_without_guest(path):
        yield


@pytest.fixture(params=["vm", pytest.param("qemu", marks=pytest.mark.qemu)])
def any_vm(request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(request.param)


def run(path: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, str(path), *words], input=typed, capture_output=True, text=True, timeout=60)


def test_one_line_is_carried_out(any_vm: None, path: Path) -> None:
    assert run(path, "stop").stdout == ""
    answer = run(path, "info", "status")
    assert (answer.returncode, answer.stdout, answer.stderr) == (0, "VM status: paused\n", "")
    assert run(path, "info status").stdout == answer.stdout
    assert run(path, "migrate", "-x", "tcp:h:1").stdout.startswith("migrate: unsupported option -x")


@pytest.mark.parametrize("line", ["nonsense", "info nonsense", "migrate", "migrate_set_parameter nonsense 1"])
def test_a_refused_line_is_told_by_the_exit_code(any_vm: None, path: Path, line: str) -> None:
    answer = run(path, line)
    assert answer.returncode == 1
    assert answer.stdout != ""
    assert answer.stderr == ""


def test_lines_are_read_from_a_pipe(any_vm: None, path: Path) -> None:
    answer = run(path, typed="stop\n\ninfo status\ncont\ninfo status")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout == "VM status: paused\nVM status: running\n"
    answer = run(path, typed="stop\nnonsense\ninfo status\n")
    assert answer.returncode == 1
    assert answer.stdout == "unknown command: 'nonsense'\nVM status: paused\n"


def test_bytes_that_are_no_text_do_no_harm(vm: MemoryVm, path: Path) -> None:
    answer = subprocess.run([*COMMAND, path], input=b"\xff\xfe\n", capture_output=True, timeout=60)
    assert (answer.returncode, answer.stderr) == (1, b"")
    answer = subprocess.run([*COMMAND, path, b"x\xff"], capture_output=True, timeout=60)
    assert answer.returncode == 2
    assert b"is not UTF-8" in answer.stderr


def test_nobody_there_is_one_line(path: Path) -> None:
    answer = run(path, "stop")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("vmferry: cannot reach the monitor at unix:")
    assert answer.stderr.count("\n") == 1


def test_a_monitor_that_serves_another_client_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmferry.client.qmp_client.GREETING_TIMEOUT_S", 0.1)
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as other:
        busy.bind(str(path))
        busy.listen()
        other.connect(str(path))
        start_s = time.monotonic()
        answer = CliRunner().invoke(command, [str(path), "info status"])
    assert time.monotonic() - start_s < TIMEOUT_S
    assert "another client is connected" in str(answer.exception)


def test_a_session_at_a_terminal(any_vm: None, path: Path, tmp_path: Path) -> None:
    with terminal(path, tmp_path) as session:
        session.expect("Ctrl-D leaves.")
        session.expect("(vmferry) ")
        session.type("info statu\t\n")
        session.expect("info status")
        session.expect("VM status: running")
        session.expect("(vmferry) ")
        session.type("migrate_set_parameter max-b\t64\n")
        session.expect("max-bandwidth 64")
        assert session.expect("(vmferry) ").strip() == ""
        session.type("info migrate_parameters\n")
        session.expect("max-bandwidth: 67108864 bytes/second")
        session.expect("(vmferry) ")
        session.type("stop\n")
        session.expect("] STOP")
        session.expect("(vmferry) ")
        session.type("half a line")
        session.expect("half a line")
        session.interrupt()
        session.expect("(vmferry) ")
        session.type("\x04")
        assert session.process.wait(TIMEOUT_S) == 0
        assert session.rest().strip() == ""


def test_lines_are_remembered_for_their_owner_only(vm: MemoryVm, path: Path, tmp_path: Path) -> None:
    for typed, expected in (("info name\n", "guest-7"), ("\x1b[A\n", "info name\r\nguest-7")):
        with terminal(path, tmp_path) as session:
            session.expect("(vmferry) ")
            session.type(typed)
            session.expect(expected)
            session.expect("(vmferry) ")
    history = tmp_path / "vmferry" / "monitor_history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert stat.S_IMODE(history.parent.stat().st_mode) == 0o700
    assert history.read_text().splitlines() == ["info name", "info name"]


def test_a_home_that_cannot_be_written_costs_only_the_history(vm: MemoryVm, path: Path, tmp_path: Path) -> None:
    home = tmp_path / "file"
    home.touch()
    with terminal(path, home) as session:
        session.expect("The history cannot be kept in")
        session.expect("(vmferry) ")
        session.type("info status\n")
        session.expect("VM status: running")


def test_quit_ends_the_session_too(any_vm: None, path: Path, tmp_path: Path) -> None:
    with terminal(path, tmp_path) as session:
        session.expect("(vmferry) ")
        session.type("quit\n")
        assert session.process.wait(TIMEOUT_S) == 0
        assert "Traceback" not in session.rest()


@pytest.mark.qemu
def test_a_monitor_that_goes_away_is_one_line(path: Path, tmp_path: Path) -> None:
    with qemu_without_guest(path) as qemu, terminal(path, tmp_path) as session:
        session.expect("(vmferry) ")
        qemu.kill()
        session.type("info status\n")
        session.expect("vmferry: the monitor at unix:")
        assert session.process.wait(TIMEOUT_S) == 1
        assert "Traceback" not in session.rest()


def test_answers_do_not_control_the_terminal(vm: MemoryVm, path: Path) -> None:
    vm.name = "\x1b[2Jevil\r\x9b"
    assert run(path, "info name").stdout == "?[2Jevil??\n"
