"""`vmferry replay` as its user sees it."""

import gzip
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from vmferry.cli.replay import command

REAL = Path(__file__).parents[1] / "data" / "busy-guest.jsonl.gz"

LINES = gzip.decompress(REAL.read_bytes())


def replay(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_it_answers_for_every_variant_in_80_columns() -> None:
    answer = replay(REAL)
    assert answer.exit_code == 0, answer.output
    text = " ".join(answer.stdout.split())
    for variant in ("original", "background-sync", "background-sync+responsive-throttle", "periodic-sync"):
        assert f"{variant} converges in" in text
    assert "How close this is: background-sync+responsive-throttle was recorded" in text
    assert max(len(line) for line in answer.stdout.splitlines()[1:]) <= 80


def test_another_link_may_be_too_slow() -> None:
    answer = replay(REAL, "--variant", "original", "--max-bandwidth", "5MiB/s")
    assert "original does not converge: given up after" in " ".join(answer.stdout.split())


def test_scripts_get_the_figures_and_the_doubts() -> None:
    recorded, run = map(msgspec.json.decode, replay(REAL, "--variant", "original", "--json").stdout.splitlines())
    assert recorded["label"] == "recorded"
    assert run["label"] == "original"
    assert run["write_rate_is_lower_bound"] in (True, False)
    assert run["total_time_ms"] > recorded["total_time_ms"]
    for figures in (recorded, run):
        assert figures["sent_per_memory"] == figures["sent_bytes"] / figures["memory_bytes"] > 0
        assert figures["work_lost_vcpu_s"] > 0 < figures["work_lost_percent"]


def test_what_lies_beyond_the_recording_is_named() -> None:
    labels = ["original", "background-sync+responsive-throttle"]
    answer = replay(REAL, *(word for label in labels for word in ("--variant", label)))
    assert "It runs for longer with original; there the recording's later half repeats" in " ".join(
        answer.stdout.split()
    )
    runs = [msgspec.json.decode(line) for line in replay(REAL, "--json").stdout.splitlines()]
    outlasting = {run["label"] for run in runs if run["outlasts_recording"]}
    assert outlasting == {"original", "background-sync", "periodic-sync"}


def test_a_journal_of_several_is_asked_which(tmp_path: Path) -> None:
    path = tmp_path / "twice"
    path.write_bytes(gzip.decompress(REAL.read_bytes()) * 2)
    assert "migration 2 of 2" in replay(path, "--variant", "original").stdout
    assert "migration 1 of 2" in replay(path, "--variant", "original", "--migration", 1).stdout
    assert "there is no migration 3" in str(replay(path, "--migration", 3).exception)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "no migration began"),
        (b"no journal\n", "not a journal entry"),
        (gzip.decompress(REAL.read_bytes()).splitlines()[0] + b"\n", "ended in its first pass"),
        (LINES.replace(b'"total-time-ns":', b'"total-time-ns":-'), "/journal: recorded: no journal of a migration"),
    ],
)
def test_what_is_no_journal_is_one_line(tmp_path: Path, content: bytes, named: str) -> None:
    (tmp_path / "journal").write_bytes(content)
    text = str(replay(tmp_path / "journal").exception)
    assert named in text
    assert "\n" not in text


def recorded_from_outside(path: Path, *, total_s: float | None = None, status: str = "completed") -> Path:
    """Write a real journal as one from outside, that says it took so long."""
    lines = [msgspec.json.decode(line) for line in LINES.splitlines()]
    lines[0]["event"]["recorded-by"] = "driver"
    last = lines[-1]["event"]
    last["status"] = status
    if total_s is not None:
        last["total-time-ns"] = round(total_s * 1e9)
        lines[-1]["time-ns"] = lines[0]["time-ns"] + last["total-time-ns"]
    path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    return path


def test_a_migration_from_outside_is_replayed_as_it_was(tmp_path: Path) -> None:
    path = recorded_from_outside(tmp_path / "journal")
    own = msgspec.json.decode(LINES.splitlines()[-1])["event"]["total-time-ns"] // 10**6
    lines = replay(path, "--json").stdout.splitlines()
    runs = {run["label"]: run for run in map(msgspec.json.decode, lines)}
    assert runs["recorded"]["total_time_ms"] == own
    replayed = runs["background-sync+responsive-throttle"]
    assert abs(replayed["total_time_ms"] - own) <= own // 10
    assert replayed["max_throttle_percent"] == runs["recorded"]["max_throttle_percent"]


@pytest.mark.parametrize("factor", [0.5, 2])
def test_what_is_not_replayed_as_it_was_is_refused(tmp_path: Path, factor: float) -> None:
    own_s = msgspec.json.decode(LINES.splitlines()[-1])["event"]["total-time-ns"] / 1e9
    path = recorded_from_outside(tmp_path / "journal", total_s=own_s * factor)
    text = str(replay(path).exception)
    assert "the journal tells too little of the guest" in text
    assert "\n" not in text


def test_a_migration_that_did_not_converge_is_no_quick_success(tmp_path: Path) -> None:
    path = recorded_from_outside(tmp_path / "journal", total_s=600, status="cancelled")
    assert "it had not converged after 10 min 0 s, but replayed it does in 18.5 s" in str(replay(path).exception)


def test_a_journal_with_gaps_is_refused(tmp_path: Path) -> None:
    lines = LINES.splitlines(keepends=True)
    time_ns = msgspec.json.decode(lines[0])["time-ns"]
    lost = msgspec.json.encode({"time-ns": time_ns, "event": {"event": "lost", "count": None}})
    (tmp_path / "journal").write_bytes(b"".join([lines[0], lost + b"\n", *lines[1:]]))
    assert "part of the migration is not in the journal" in str(replay(tmp_path / "journal").exception)
