"""The engine keeps its promises under drawn faults, and an engine that does not is found out."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.chaos.__main__ import chaos
from bench.chaos.records import Record, read_records
from bench.chaos.simulated import FAULTS, run_one
from click.testing import CliRunner

from vmferry.memory.bitmap import Bitmap
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.source import MigrationSource
from vmferry.migration.switchover import Owner, Switchover
from vmferry.testing.memory_guest import MemoryGuest

SEED = 20260101
RUNS = 300


def drawn_runs() -> Iterator[Record]:
    """Drawn runs."""
    return (run_one(SEED, number) for number in range(RUNS))


def test_nothing_is_lost_and_nobody_runs_twice() -> None:
    drawn = list(drawn_runs())
    assert {record.observation.fault.name for record in drawn} == set(FAULTS)
    assert not [violation for record in drawn for violation in record.violations]


def test_a_run_can_be_repeated_by_its_number(tmp_path: Path) -> None:
    output = tmp_path / "records"
    words = ["--seed", "7", "--output", str(output), "simulated", "--processes", "1"]
    assert CliRunner().invoke(chaos, [*words, "--runs", "4"]).exit_code == 0
    assert CliRunner().invoke(chaos, ["--only", "2", *words]).exit_code == 0
    records = list(read_records([output]))
    assert [record.number for record in records] == [0, 1, 2, 3, 2]
    assert records[2] == records[4]


def is_found(complaint: str) -> bool:
    return any(complaint in violation for record in drawn_runs() for violation in record.violations)


def test_a_source_that_runs_on_in_doubt_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Switchover, "resume_if_ours", lambda self: self.owner is Owner.DESTINATION or self._guest.resume()
    )
    assert is_found("two running copies")


def test_a_destination_that_begins_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    finish = MigrationDestination._finish

    def eager(self: MigrationDestination, message: object) -> object:
        answer = finish(self, message)  # type: ignore[arg-type]
        self._guest.resume()
        return answer

    monkeypatch.setattr(MigrationDestination, "_finish", eager)
    assert is_found("two running copies")


def test_a_lost_write_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    collect = MemoryGuest.collect_dirty

    def forgetful(self: MemoryGuest, bitmap: Bitmap) -> None:
        collect(self, bitmap)
        bitmap.clear_range(0, 1)

    monkeypatch.setattr(MemoryGuest, "collect_dirty", forgetful)
    monkeypatch.setattr(MemoryGuest, "memory_digest", lambda *_: b"")  # else the engine would find it
    assert is_found("memory: page 0")


def test_a_throttle_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        MigrationSource, "_release_guest", lambda self: self._switchover and self._switchover.resume_if_ours()
    )
    assert is_found("not put back: the dirty log is on")


@pytest.mark.parametrize("body", ["simulated", "driven"])
def test_the_table_counts_every_run(tmp_path: Path, body: str) -> None:
    output = tmp_path / "records"
    ran = CliRunner().invoke(chaos, ["--output", str(output), body, "--processes", "1", "--runs", "40"])
    told = CliRunner().invoke(chaos, ["table", str(output)])
    assert ran.output == told.output
    *rows, last = (line.strip("| ").split(" | ") for line in told.output.splitlines()[4:])
    assert last[:2] == ["all", "40"]
    for column in range(1, len(last)):
        assert sum(int(row[column]) for row in rows) == int(last[column])
    assert sum(map(int, last[3:])) == 40


def test_a_violation_is_exit_code_1_and_told_with_the_way_to_repeat_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.chaos.simulated._STALL_MS", 0)
    monkeypatch.setattr("bench.chaos.byte_link._LONGEST_NS", 0)
    result = CliRunner().invoke(chaos, ["--seed", "5", "--only", "17", "simulated", "--processes", "1"])
    assert result.exit_code == 1
    assert "simulated --seed 5 --only 17: overdue: the migration has not ended after 300 s" in result.output
