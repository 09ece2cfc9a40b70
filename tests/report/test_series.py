"""The course of a migration, worked out from its journal."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.bounds import clean_text
from vmferry.errors import UsageError
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.events import (
    BandwidthWindow,
    Decided,
    Ended,
    Event,
    Lost,
    Started,
    StatusChanged,
    SwitchoverBegan,
    Synced,
)
from vmferry.migration.journal import Entry, split_migrations
from vmferry.migration.status import MigrationStatus as Status
from vmferry.report.journal_runs import run_series
from vmferry.report.series import RunSeries, Series
from vmferry.settings.parameters import MigrationParameters
from vmferry.simulation.run import Simulation

SCENARIO = b"""
name = "small"
guest = { memory = "256M", vcpus = 2, loads = [{ pattern = "uniform", memory = "128M", write-rate = "500MiB/s" }] }
link = { rate = "20MiB/s" }
"""
PAGE = 4096
MB = 1_000_000


def started(**parameters: object) -> Started:
    values = MigrationParameters().as_qmp() | {name.replace("_", "-"): value for name, value in parameters.items()}
    return Started(page_size=PAGE, page_count=1000, vcpu_count=4, auto_converge=True, parameters=values)


def decided(old: int, new: int, reason: str = "because", dirty_bytes: int = 6 * MB) -> Decided:
    return Decided(
        period_ns=2 * 10**9,
        dirty_bytes=dirty_bytes,
        sent_bytes=4 * MB,
        old_throttle_percent=old,
        throttle_percent=new,
        reason=reason,
    )


def synced(kind: str, iteration: int, remaining_pages: int) -> Synced:
    return Synced(
        kind=kind,
        dirty_sync_count=iteration,
        iteration_count=iteration,
        newly_dirty_pages=1,
        remaining_pages=remaining_pages,
        duration_ns=0,
    )


def status(new: Status) -> StatusChanged:
    return StatusChanged(old=Status.SETUP, new=new)


def ended(total_s: float = 20) -> Ended:
    return Ended(
        status=Status.COMPLETED,
        total_time_ns=round(total_s * 10**9),
        downtime_ns=2 * 10**9,
        downtime_parts_ns={"stop": 10**9, "ram": 10**9},
        sent_bytes=2 * 1000 * PAGE,
        iteration_count=3,
        dirty_sync_count=4,
        max_throttle_percent=50,
    )


def window(sent_bytes: int, remaining_bytes: int) -> BandwidthWindow:
    return BandwidthWindow(
        duration_ns=10**9 // 2,
        sent_bytes=sent_bytes,
        remaining_bytes=remaining_bytes,
        throttle_percent=0,
        threshold_bytes=0,
    )


def journal(*events: tuple[float, Event], start_s: float = 1000) -> list[Entry]:
    """Make a journal of events at seconds since the start, on a clock that did not begin with the migration."""
    return [Entry(round((start_s + time) * 10**9), event) for time, event in events]


COURSE: list[tuple[float, Event]] = [
    (0, started()),
    (0, synced("iteration", 1, 1000)),
    (4, window(3 * MB, 2 * MB)),
    (5, synced("iteration", 2, 400)),
    (8, decided(0, 20)),
    (10, synced("background", 2, 300)),
    (12, decided(20, 50, "too\nmuch\x1b[31m", 8 * MB)),
    (14, synced("iteration", 3, 200)),
    (18, SwitchoverBegan(remaining_bytes=0, threshold_bytes=0)),
    (18, status(Status.DEVICE)),
    (20, ended()),
]


def course() -> RunSeries:
    return run_series(journal(*COURSE), "one")


def test_figures_are_the_ones_worked_out_by_hand() -> None:
    run = course()
    # 20 % from 8 to 12 s and 50 % from 12 to 18 s, when the guest is stopped: 0.8 + 3.0 s of each of 4 vCPUs in 20 s.
    assert run.outcome.work_lost_vcpu_s == pytest.approx(4 * 3.8)
    assert run.outcome.work_lost_percent == pytest.approx(100 * 3.8 / 20)
    assert run.outcome.sent_per_memory == 2
    assert run.outcome.memory_bytes == 1000 * PAGE
    assert (run.variant, run.downtime_s) == ("background-sync", (18, 20))


def test_series_are_in_seconds_since_the_start() -> None:
    run = course()
    assert list(run.remaining_bytes.points()) == [
        (0, 1000 * PAGE),
        (4, 2 * MB),
        (5, 400 * PAGE),
        (10, 300 * PAGE),
        (14, 200 * PAGE),
        (20, 0),
    ]
    assert list(run.throttle_percent.points()) == [(0, 0), (8, 20), (12, 50), (20, 50)]
    assert list(run.guest_speed_percent.points()) == [(0, 100), (8, 80), (12, 50), (18, 0), (20, 100)]
    assert list(run.bandwidth_bytes_per_s.points()) == [(4, 6 * MB)]
    assert list(run.newly_dirty_bytes_per_s.points()) == [(0, PAGE / 5), (5, PAGE / 5), (10, PAGE / 5), (14, PAGE / 4)]
    assert list(run.iterations.points()) == [(0, 1), (5, 2), (14, 3), (20, 3)]
    assert list(run.background_syncs.points()) == [(10, 2)]
    assert [decision.reason for decision in run.decisions or ()] == ["because", "too?much?[31m"]


@pytest.mark.parametrize(
    ("parameters", "variant"),
    [
        ({"background_sync": "off"}, "original"),
        ({"background_sync": "preserve", "cpu_responsive_throttle": True}, "background-sync+responsive-throttle"),
        ({"background_sync": "merge"}, "periodic-sync"),
        ({"background_sync": "merge", "cpu_responsive_throttle": True}, "unnamed variant"),
        ({"background_sync": ["x"], "cpu_responsive_throttle": {}}, "unnamed variant"),
    ],
)
def test_the_variant_is_known_by_its_parameters(parameters: dict[str, object], variant: str) -> None:
    assert run_series(journal((0, started(**parameters)), (1, ended(1))), "").variant == variant


def test_the_speed_of_all_vcpus_is_measured_between_samples() -> None:
    samples = [(0.0, [100, 200]), (2.0, [300, 200]), (2.0, [301, 201]), (4.0, [301, 1201])]
    run = run_series(journal(*COURSE), "one", samples)
    assert list(run.written_pages_per_s.points()) == [(0, 100), (2, 100), (4, 500)]
    assert run.lost_is_measured


def test_sums_over_a_journal_with_gaps_and_without_an_end_are_unknown() -> None:
    torn = run_series(journal(*COURSE[:5], (8, Lost(count=None))), "x").outcome
    assert (torn.sent_bytes, torn.max_throttle_percent) == (None, None)


def test_a_journal_holds_several_migrations_and_what_is_not_theirs() -> None:
    stray: list[tuple[float, Event]] = [(0, status(Status.ACTIVE))]
    entries = journal(*stray, *COURSE, *stray, *COURSE[:-1], *COURSE[:5])
    migrations = [run_series(migration, "x") for migration in split_migrations(entries)]
    assert [run.outcome.status for run in migrations] == [Status.COMPLETED, Status.DEVICE, Status.SETUP]
    assert [run.outcome.error for run in migrations][1:] == 2 * ["the journal ends before the migration does"]
    assert migrations[2].outcome.sent_bytes == 3 * MB
    assert migrations[2].outcome.max_throttle_percent == 20
    assert migrations[2].total_s == 8
    assert list(split_migrations([])) == []


@pytest.mark.parametrize(
    ("event", "complaint"),
    [
        (decided(0, 101), "'throttle_percent' is 101, 0 to 100 is possible"),
        (window(-1, 0), "'sent_bytes' is -1"),
        (window(1 << 64, 0), "'sent_bytes' is 18446744073709551616"),
    ],
)
def test_numbers_that_cannot_be_are_refused(event: Event, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        run_series(journal((0, started()), (1, event)), "bad")


def test_time_that_runs_backwards_is_held() -> None:
    run = run_series(journal((0, started()), (5, decided(0, 20)), (3, decided(20, 30)), (6, ended(1))), "x")
    assert list(run.throttle_percent.points()) == [(0, 0), (5, 20), (5, 30), (6, 30)]


def test_the_work_lost_is_what_the_guest_could_not_do() -> None:
    scenario = parse_scenario(SCENARIO, "small")
    for variant in scenario.variants:
        simulation = Simulation(scenario, variant, 0)
        run = run_series(simulation.run().entries, variant)
        lost_ns = simulation.source_guest.lost_ns
        assert lost_ns > 0
        assert run.outcome.work_lost_vcpu_s == pytest.approx(lost_ns / 1e9 * scenario.guest.vcpu_count, rel=1e-6)
        assert run.outcome.work_lost_percent == pytest.approx(100 * lost_ns / simulation.clock.now_ns(), rel=1e-6)
        assert run.outcome.sent_bytes == simulation.channel.sent_bytes
        assert run.variant == variant


@given(values=st.lists(st.integers(-1000, 1000), max_size=300), max_points=st.integers(4, 50))
def test_thinning_keeps_ends_and_extremes(values: list[int], max_points: int) -> None:
    series = Series.of(enumerate(values))
    thin = series.thinned(max_points)
    assert len(thin) <= max_points or len(thin) == len(series) <= max_points
    assert set(thin.points()) <= set(series.points())
    assert list(np.diff(thin.seconds) > 0) == [True] * max(0, len(thin) - 1)
    if values:
        assert (thin.values.min(), thin.values.max()) == (min(values), max(values))
        assert (thin.seconds[0], thin.seconds[-1]) == (0, len(values) - 1)


def test_texts_are_shown_on_one_line_without_control_characters() -> None:
    assert clean_text("a\x1b[2J\nb\u202ec") == "a?[2J?b?c"
    assert len(clean_text("x" * 10_000)) == 200


def test_a_stop_that_nobody_saw_is_as_long_before_the_end_as_the_guest_stood_still() -> None:
    unseen = [(time, event) for time, event in COURSE if not isinstance(event, SwitchoverBegan)]
    run = run_series(journal(*unseen), "x")
    assert (run.switchover_s, run.downtime_s) == (18, (18, 20))
    assert run_series(journal(*COURSE[:-3]), "x").switchover_s is None
