"""Whatever is interrupted says so in one line, and by the exit code that shells have for the signal."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import click
import pytest

from tests.support.qemu import qemu_without_guest
from tests.support.wait import wait_until
from vmferry.cli import main
from vmferry.cli.interrupts import Interruption
from vmferry.cli.progress import exit_code_of
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Arrival, ArrivalState, Result
from vmferry.convergence.limit_watch import Verdict

VMFERRY = (sys.executable, "-m", "vmferry")
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", list(main._COMMANDS))
def test_every_command_tells_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], name: str, number: int
) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt if number == signal.SIGINT else Interruption(number)

    monkeypatch.setattr(main._LazyGroup, "get_command", lambda *_: click.Command(name, callback=interrupted))
    monkeypatch.setattr(main, "raise_interruptions", lambda: None)
    monkeypatch.setattr(sys, "argv", ["vmferry", name])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 128 + number
    assert capfd.readouterr().err == "vmferry: interrupted\n"


COMPLETED = Result(Progress.from_qmp({"status": "completed"}), 0)
CANCELLED = Result(Progress.from_qmp({"status": "cancelled"}), 0)
BROKEN, MOVED = Verdict("finish-by", False, "", obeyed=False), Verdict("finish-by", False, "", obeyed=True)


@pytest.mark.parametrize(
    ("result", "code"),
    [
        (COMPLETED, 0),
        (replace(COMPLETED, arrival=Arrival(ArrivalState.VERIFIED, "", "")), 0),
        (replace(COMPLETED, arrival=Arrival(ArrivalState.UNVERIFIED, "", ""), verdicts=(BROKEN,)), 3),
        (replace(COMPLETED, verdicts=(BROKEN,)), 4),
        (replace(COMPLETED, verdicts=(MOVED, Verdict("max downtime", None, ""))), 0),
        (replace(COMPLETED, interrupted_by=2), 0),
        (CANCELLED, 1),
        (replace(CANCELLED, interrupted_by=15), 143),
    ],
)
def test_the_end_of_a_migration_has_the_code_that_is_documented(result: Result, code: int) -> None:
    assert exit_code_of(result) == code


@pytest.mark.qemu
@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("words", [("watch", "--wait", "--qmp"), ("monitor",)])
def test_what_waits_can_be_interrupted(tmp_path: Path, words: tuple[str, ...], number: int) -> None:
    path = tmp_path / "qmp"
    with (
        qemu_without_guest(path),
        subprocess.Popen(
            [*VMFERRY, *words, str(path)], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as command,
    ):
        wait_until(lambda: has_socket(command.pid))
        command.send_signal(number)
        assert command.stderr
        errors = command.stderr.read()
    assert (command.returncode, errors) == (128 + number, "vmferry: interrupted\n")


def has_socket(pid: int) -> bool:
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            if os.readlink(path).startswith("socket:"):
                return True
    return False
