"""`vmferry migrate`: what is refused, and how failures are told. It moves VMs in tests/end_to_end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import run
from tests.support.qemu import qemu_without_guest
from vmferry.cli.progress import screen
from vmferry.client.qmp_client import QmpClient

pytestmark = pytest.mark.qemu
AWKWARD = "unix:/nowhere/[/x] [fe80::1] [bold]" + "a" * 50
STEERED = ("--variant", "background-sync+responsive-throttle")


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "qmp"
    with qemu_without_guest(path):
        yield path


def migrate(monitor: Path, *words: str | bytes) -> tuple[int, str, str]:
    answer = run("migrate", "--qmp", str(monitor), *words)
    return answer.returncode, answer.stdout, answer.stderr


def test_the_reason_of_a_failure_is_one_line_as_it_is(monitor: Path) -> None:
    code, out, errors = migrate(monitor, AWKWARD, "--variant", "original", "--deadline", "10min")
    assert (code, out) == (1, "")
    assert "QEMU" in errors.splitlines()[0]
    assert errors.splitlines()[1:] == [errors.splitlines()[-1]]
    assert errors.splitlines()[-1].startswith("vmferry: migration failed: ")
    assert AWKWARD.removeprefix("unix:") in errors
    assert "finish-by: kept" in errors


def test_lines_are_told_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    line = "[/x] " + "word " * 40
    with screen(300, quiet=False) as (_, tell):
        tell(line)
    assert capsys.readouterr().err.strip() == line.strip()


def test_a_journal_that_cannot_be_written_is_told_once(monitor: Path) -> None:
    code, _, errors = migrate(monitor, AWKWARD, "--journal", "/dev/full")
    assert (code, errors.count("/dev/full"), errors.count("Traceback")) == (1, 1, 0)
    assert "migration failed" in errors


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ([b"tcp:\xff:22"], "is not UTF-8"),
        (["unix:/x", "--variant", "original", "--throttle-by", "cgroup"], "a variant that has background sync"),
        (["unix:/x", "--variant", "original", "--interval", "1s"], "a variant that has background sync"),
        (["unix:/x", *STEERED, "--interval", "1h"], "a measurement lasts 50 ms to 60 s"),
        (["unix:/x", "--verify"], " has no parameter 'verify'; leave it out"),
    ],
)
def test_what_cannot_be_is_a_usage_error(monitor: Path, words: list[str | bytes], complaint: str) -> None:
    code, out, errors = migrate(monitor, *words)
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert complaint in errors


@pytest.mark.parametrize("words", [["migrate", "tcp:nowhere:1"], ["watch"]])
def test_a_monitor_of_others_is_named_and_nothing_begins_when_they_leave(monitor: Path, words: list[str]) -> None:
    with QmpClient.connect(str(monitor)):
        answer = run(*words, "--qmp", str(monitor))
    assert (answer.returncode, answer.stdout) == (1, "")
    assert "another client is connected to the monitor" in answer.stderr
    with QmpClient.connect(str(monitor)) as client:
        assert client.execute("query-migrate") == {}


def test_two_paces_are_refused() -> None:
    answer = run("migrate", "--qmp", "unix:/x", "tcp:a:1", "--gentle", "--fast")
    assert (answer.returncode, answer.stderr) == (2, "vmferry: --gentle and --fast are opposites; give one of them\n")
