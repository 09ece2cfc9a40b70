"""What a VM keeps of its migrations for those who ask, and what they make of it."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report.test_series import COURSE, journal
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.recorder import Recorder
from vmferry.control.vm_record import VmRecord
from vmferry.errors import MonitorError
from vmferry.migration.events import Ended, Lost, Ordered, Started
from vmferry.migration.journal import Entry, MemoryJournal
from vmferry.migration.status import MigrationStatus
from vmferry.report.journal_runs import run_series
from vmferry.report.text_report import text_report
from vmferry.vm.record import MAX_PART_BYTES, MigrationRecord

ENTRIES = journal(*COURSE)
NOTHING = Progress.from_qmp({"status": "cancelled"})


class Monitor:
    """That of a VM that has this record."""

    def __init__(self, record: MigrationRecord) -> None:
        self.record = record
        self.gone = False

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if self.gone:
            raise MonitorError("it has left")
        part = self.record.since((arguments or {}).get("first"))  # type: ignore[arg-type]
        return {"lines": part.lines, "next": part.next, "dropped": part.dropped}


def keep(record: MigrationRecord, entries: list[Entry]) -> None:
    for entry in entries:
        record.record(entry.time_ns, entry.event)


def reader(monitor: Monitor, *, attached: bool = True) -> tuple[VmRecord, MemoryJournal]:
    kept = MemoryJournal()
    seen = Recorder(kept, lambda: 0)
    return VmRecord(monitor, seen, kept, attached=attached), kept  # type: ignore[arg-type]


def decoded(lines: list[str]) -> list[Entry]:
    return [msgspec.json.decode(line, type=Entry) for line in lines]


def test_all_that_happened_is_copied_however_late_somebody_asks() -> None:
    for asked_after in range(1, len(ENTRIES) + 1):
        record = MigrationRecord()
        copy, kept = reader(Monitor(record))
        keep(record, ENTRIES[:asked_after])
        copy.poll(NOTHING)
        keep(record, ENTRIES[asked_after:])
        copy.end(Result(NOTHING, None))
        assert kept.entries == ENTRIES


def test_of_several_migrations_the_latest_is_kept_and_the_next_can_be_waited_for() -> None:
    record = MigrationRecord()
    keep(record, ENTRIES[1:])  # what belongs to no migration
    assert record.since(None).lines == []
    keep(record, ENTRIES * 2)
    assert decoded(record.since(None).lines) == ENTRIES
    copy, kept = reader(Monitor(record), attached=False)
    copy.poll(NOTHING)
    assert kept.entries == []
    keep(record, ENTRIES * 2)
    copy.end(Result(NOTHING, None))
    assert kept.entries == ENTRIES


@given(st.integers(1, 12), st.lists(st.integers(0, 4), max_size=20))
def test_what_is_dropped_is_counted(room: int, steps: list[int]) -> None:
    record = MigrationRecord(room)
    copy, kept = reader(Monitor(record))
    left = list(ENTRIES)
    for step in steps:
        keep(record, left[:step])
        del left[:step]
        copy.poll(NOTHING)
    keep(record, left)
    copy.end(Result(NOTHING, None))
    lost = sum(entry.event.count or 0 for entry in kept.entries if isinstance(entry.event, Lost))
    copied = [entry for entry in kept.entries if not isinstance(entry.event, Lost)]
    assert len(copied) + lost == len(ENTRIES)
    assert isinstance(copied[0].event, Started)
    assert copied == sorted(copied, key=ENTRIES.index)
    run = run_series(kept.entries, "gaps")
    assert (run.outcome.work_lost_percent is None) == bool(lost)
    if lost:
        assert "how much of the guest's work was lost is unknown" in text_report([run])


def test_an_answer_is_bounded_and_the_next_one_goes_on() -> None:
    record = MigrationRecord()
    keep(record, [ENTRIES[0], *ENTRIES[2:3] * 3000, ENTRIES[-1]])
    first = record.since(None)
    assert sum(map(len, first.lines)) < MAX_PART_BYTES + 1000
    copy, kept = reader(Monitor(record))
    copy.poll(NOTHING)
    assert len(kept.entries) == 3002


@pytest.mark.parametrize("progress", [NOTHING, Progress.from_qmp({"status": "completed", "total-time": 20_000})])
def test_a_record_that_breaks_off_ends_with_what_was_seen(progress: Progress) -> None:
    record = MigrationRecord()
    monitor = Monitor(record)
    copy, kept = reader(monitor)
    keep(record, ENTRIES[:5])
    copy.poll(NOTHING)
    monitor.gone = True
    copy.end(Result(progress, None))
    assert kept.entries[:-1] == ENTRIES[:5]
    end = kept.entries[-1].event
    assert isinstance(end, Ended)
    assert end.status is MigrationStatus(progress.status)
    assert end.sent_bytes is None


@pytest.mark.parametrize(
    "nonsense",
    ["{no entry", '{"time-ns":' + 200 * "9" + ',"event":{"event":"throttle","throttle-percent":1}}', '"\ud800"'],
    ids=["no JSON", "a huge number", "half of a character"],
)
def test_a_vm_that_tells_nonsense_ends_its_record_and_no_migration(nonsense: str) -> None:
    monitor = Monitor(MigrationRecord())
    copy, kept = reader(monitor)
    keep(monitor.record, ENTRIES[:3])
    copy.poll(NOTHING)
    monitor.record._lines.append(nonsense)
    monitor.record._next += 1
    copy.poll(NOTHING)
    keep(monitor.record, ENTRIES[3:])
    copy.end(Result(NOTHING, None))
    assert kept.entries[:3] == ENTRIES[:3]
    assert isinstance(kept.entries[-1].event, Ended)
    assert len(kept.entries) == 4


def test_a_record_without_a_beginning_is_none() -> None:
    monitor = Monitor(MigrationRecord())
    copy, kept = reader(monitor)
    copy.start(total_bytes=1 << 20, vcpu_count=1, auto_converge=True, parameters={}, recorded_by="observer")
    lines = [msgspec.json.encode(entry).decode() for entry in ENTRIES[1:3]]
    monitor.execute = lambda command, arguments=None: {"lines": lines, "next": 9, "dropped": 0}  # type: ignore[method-assign]
    copy.poll(NOTHING)
    copy.end(Result(NOTHING, None))
    assert run_series(kept.entries, "seen").outcome.status == MigrationStatus.CANCELLED


def test_a_vm_that_tells_nothing_is_recorded_as_it_was_seen() -> None:
    copy, kept = reader(Monitor(MigrationRecord()))
    copy.start(total_bytes=1 << 20, vcpu_count=1, auto_converge=True, parameters={}, recorded_by="observer")
    copy.poll(NOTHING)
    copy.end(Result(NOTHING, None))
    run = run_series(kept.entries, "seen")
    assert (run.outcome.status, run.outcome.sent_bytes, run.outcome.total_time_ms) == (
        MigrationStatus.CANCELLED,
        None,
        None,
    )


def test_what_was_ordered_stands_after_the_start_of_the_vms_own_record() -> None:
    record = MigrationRecord()
    copy, kept = reader(Monitor(record))
    ordered = Ordered(vm_name="db-1", deadline_ns=10**9)
    copy.start(ordered=ordered)
    keep(record, ENTRIES)
    copy.end(Result(NOTHING, None))
    assert kept.entries == [ENTRIES[0], Entry(ENTRIES[0].time_ns, ordered), *ENTRIES[1:]]
