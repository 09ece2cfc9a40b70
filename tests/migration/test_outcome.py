"""What is told of a migration follows from its journal, and what the journal does not hold is not told."""

import msgspec

from tests.report.test_series import COURSE, journal, started, window
from vmferry.migration.events import Ended, Lost
from vmferry.migration.outcome import Outcome
from vmferry.migration.status import MigrationStatus

NOTHING_SEEN = Ended(
    status=MigrationStatus.FAILED,
    total_time_ns=None,
    downtime_ns=None,
    downtime_parts_ns={},
    sent_bytes=None,
    iteration_count=None,
    dirty_sync_count=None,
    max_throttle_percent=None,
)
FIGURES = {
    *("total_time_ms", "downtime_ms", "iteration_count", "dirty_sync_count", "max_throttle_percent"),
    *("sent_bytes", "sent_per_memory", "work_lost_percent", "work_lost_vcpu_s", "vcpu_work_lost_s"),
}


def unknown(outcome: Outcome) -> set[str]:
    return {name for name, value in msgspec.structs.asdict(outcome).items() if value is None}


def test_a_whole_journal_leaves_nothing_unknown() -> None:
    assert unknown(Outcome.of(journal(*COURSE))) == set()


def test_what_nobody_saw_is_unknown_and_said_to_be() -> None:
    outcome = Outcome.of(journal((0, started()), (3, NOTHING_SEEN)))
    assert unknown(outcome) == FIGURES
    assert str(outcome).count("unknown") == 7
    assert not outcome.completed


def test_sums_over_a_gap_are_unknown() -> None:
    outcome = Outcome.of(journal((0, started()), (1, window(1000, 0)), (2, Lost(count=3))))
    assert unknown(outcome) == FIGURES - {"total_time_ms"}


def test_how_long_it_took_is_unknown_if_neither_its_beginning_nor_its_end_was_seen() -> None:
    outcome = Outcome.of(journal((0, started()), (0, Lost(count=None)), (1, window(1000, 0))))
    assert outcome.total_time_ms is None


def test_what_was_counted_in_the_guest_goes_before_what_the_throttle_took() -> None:
    outcome = Outcome.of(journal(*COURSE)).counted(50.0)
    assert (outcome.work_lost_percent, outcome.work_lost_vcpu_s) == (50.0, 0.5 * 20 * 4)
    assert unknown(outcome.counted(None)) == {"work_lost_percent", "work_lost_vcpu_s"}
