"""Migrations to make reports of: simulated ones, hostile ones, and any that a journal can tell of."""

from functools import cache

from hypothesis import strategies as st

from tests.report.test_series import SCENARIO, decided, ended, journal, started
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.events import Acted, BandwidthWindow, Decided, Ended, Event, Ordered, SwitchoverBegan, Synced
from vmferry.migration.status import MigrationStatus as Status
from vmferry.report.journal_runs import run_series
from vmferry.report.series import RunSeries
from vmferry.simulation.run import simulate

HOSTILE = "</script><script>document.title='taken'</script><img src=http://a.b/><b a='\">"
SAMPLES = [(time / 2, [100 * time, 150 * time]) for time in range(40)]


@cache
def simulated_runs() -> list[RunSeries]:
    """Return two runs of each variant of a small scenario."""
    scenario = parse_scenario(SCENARIO, "small")
    return [
        run_series(simulate(scenario, variant, seed).entries, variant)
        for variant in scenario.variants
        for seed in (0, 1)
    ]


def hostile_run() -> RunSeries:
    """Return a run of a journal that somebody has made to do harm."""
    events: list[tuple[float, Event]] = [
        (0, started(**{HOSTILE: HOSTILE})),
        (0, Ordered(vm_name=HOSTILE, deadline_ns=10**9)),
        (1, decided(0, 20, HOSTILE)),
        (1, Acted(what=HOSTILE, reason=HOSTILE)),
        (2, ended(2)),
    ]
    return run_series(journal(*events), HOSTILE, SAMPLES)


ANY = st.integers(0, 2**63) | st.integers(0, 3)
PERCENT = st.integers(0, 100)
EVENTS = st.one_of(
    st.builds(
        BandwidthWindow,
        duration_ns=ANY,
        sent_bytes=ANY,
        remaining_bytes=ANY,
        throttle_percent=PERCENT,
        threshold_bytes=ANY,
    ),
    st.builds(
        Synced,
        kind=st.sampled_from(["iteration", "background", "last", "?"]),
        dirty_sync_count=ANY,
        iteration_count=ANY,
        newly_dirty_pages=ANY,
        remaining_pages=ANY,
        duration_ns=ANY,
    ),
    st.builds(
        Decided,
        period_ns=ANY,
        dirty_bytes=ANY,
        sent_bytes=ANY,
        old_throttle_percent=PERCENT,
        throttle_percent=PERCENT,
        reason=st.text(),
    ),
    st.builds(SwitchoverBegan, remaining_bytes=ANY, threshold_bytes=ANY),
    st.builds(Acted, what=st.text(), reason=st.text(), downtime_limit_ns=ANY),
    st.builds(Ordered, vm_name=st.text(), deadline_ns=ANY, max_throttle_percent=PERCENT, max_downtime_ms=ANY),
    st.builds(
        Ended,
        status=st.sampled_from(Status),
        total_time_ns=ANY,
        downtime_ns=ANY,
        downtime_parts_ns=st.dictionaries(st.text(), ANY, max_size=2),
        sent_bytes=ANY,
        iteration_count=ANY,
        dirty_sync_count=ANY,
        max_throttle_percent=PERCENT,
        error=st.text(),
    ),
)
