"""A recorded guest writes again as its dirty syncs tell."""

from collections.abc import Sequence
from itertools import accumulate, combinations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import UsageError
from vmferry.experiment.dirty_trace import DirtyTrace, read_trace
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.migration.events import BandwidthWindow, Decided, Started, Synced
from vmferry.migration.journal import Entry
from vmferry.simulation.trace_pattern import TracePattern

PAGES = 100_000
SECOND = 1_000_000_000
STARTED = Started(page_size=4096, page_count=PAGES, vcpu_count=1, auto_converge=True, parameters={})
WINDOW = BandwidthWindow(
    duration_ns=1, sent_bytes=4096 * 30_000, remaining_bytes=0, throttle_percent=0, threshold_bytes=0
)


def sync(number: int, pages: int | None) -> Synced:
    return Synced(
        kind="iteration",
        dirty_sync_count=number,
        iteration_count=number,
        newly_dirty_pages=0 if pages is None else pages,
        remaining_pages=0,
        duration_ns=0,
        dirty_pages=pages,
        zero_pages=PAGES // 2,
    )


def throttled(percent: int) -> Decided:
    return Decided(
        period_ns=0, dirty_bytes=0, sent_bytes=0, old_throttle_percent=0, throttle_percent=percent, reason=""
    )


def journal(samples: Sequence[tuple[int, int]]) -> list[Entry]:
    """Make the journal of syncs after so many ns that found so many dirty pages."""
    times = accumulate((wall_ns for wall_ns, _ in samples), initial=7)
    pages = [0, *(pages for _, pages in samples)]
    syncs = [Entry(time, sync(number, found)) for number, (time, found) in enumerate(zip(times, pages, strict=True), 1)]
    return [Entry(0, STARTED), *syncs]


def written(pattern: TracePattern, cpu_ns: int) -> int:
    bitmap = Bitmap(PAGES)
    pattern.write(cpu_ns, bitmap)
    return bitmap.count()


lengths = st.lists(st.integers(0, 12), min_size=1, max_size=8, unique=True).map(
    lambda powers: [SECOND // 16 << power for power in sorted(powers)]
)


@given(lengths, st.data())
def test_the_curve_is_the_lowest_concave_one_above_all_samples(times: list[int], data: st.DataObject) -> None:
    counts = [data.draw(st.integers(0, 50_000)) for _ in times]
    trace = read_trace(journal(list(zip(times, counts, strict=True))), "x")
    corners = [(0, 0), *zip(times, counts, strict=True), (times[-1] * 2, max(counts))]
    for time_ns in times:
        straight = [
            low[1] + (high[1] - low[1]) * (time_ns - low[0]) / (high[0] - low[0])
            for low, high in combinations(corners, 2)
            if low[0] <= time_ns <= high[0]
        ]
        assert trace.curve(time_ns) == pytest.approx(max(straight), abs=len(times))


def test_it_writes_as_many_pages_in_the_same_times() -> None:
    samples = [(SECOND, 10_000), (SECOND // 4, 5_000), (SECOND // 8, 2_500), (2 * SECOND, 10_000)]
    pattern = TracePattern(read_trace(journal(samples), "x"))
    assert [written(pattern, time_ns) for time_ns, _ in samples] == pytest.approx([n for _, n in samples], rel=0.01)


def test_a_throttled_guest_had_less_time() -> None:
    entries = [Entry(0, STARTED), Entry(0, sync(1, 0)), Entry(0, throttled(75)), Entry(4 * SECOND, sync(2, 1_000))]
    assert read_trace(entries, "x").pages_per_s == 1_000


def test_phases_follow_one_another_and_the_later_half_repeats() -> None:
    phases = [8_000] * 4 + [2_000] * 3 + [0] * 3
    pattern = TracePattern(read_trace(journal([(SECOND, pages) for pages in phases]), "x"))
    found = [written(pattern, SECOND) for _ in range(17)]
    assert found[:10] == pytest.approx(phases, rel=0.1)
    assert found[10:] == pytest.approx([*phases[4:], 2_000], rel=0.1)
    assert pattern.areas() == [(0, PAGES // 2)]


def test_syncs_of_nothing_written_make_an_idle_guest() -> None:
    assert written(TracePattern(read_trace(journal([(SECOND, 0), (SECOND, 0)]), "x")), SECOND) == 0


@pytest.mark.parametrize(
    "samples", [[(SECOND, 0), (SECOND, 1), (SECOND, 0)], [(SECOND, 0), (SECOND // 100, 5)], [(1, 0), (1, 1)]]
)
def test_a_guest_that_seldom_writes_is_not_one_that_never_does(samples: list[tuple[int, int]]) -> None:
    trace = read_trace(journal(samples), "x")
    assert 1 <= trace.written_pages <= 5
    assert trace.recorded_ns >= sum(wall_ns for wall_ns, _ in samples)


@pytest.mark.parametrize(("short", "lower_bound"), [(9_900, True), (5_000, False)])
def test_a_write_rate_that_is_only_known_from_below_is_marked(short: int, lower_bound: bool) -> None:
    trace = read_trace(journal([(4 * SECOND, 10_000), (SECOND, short)]), "x")
    assert trace.rate_is_lower_bound is lower_bound
    assert trace.pages_per_s == pytest.approx(short, rel=0.01)


def test_slices_that_chance_put_into_a_short_sample_are_averaged() -> None:
    chance = [(SECOND, pages) for pages in (0, 4_000, 0, 4_000)]
    entries = [*journal([(SECOND, 10_000)])]
    start_ns = entries[-1].time_ns
    entries.append(Entry(start_ns, throttled(99)))
    entries += [Entry(start_ns + entry.time_ns - 7, entry.event) for entry in journal(chance)[2:]]
    assert read_trace(entries, "x").pages_per_s == pytest.approx(200_000, rel=0.01)


def test_journals_of_old_tell_less_but_are_read() -> None:
    old = [Entry(0, STARTED), Entry(0, sync(1, None)), Entry(SECOND, WINDOW), Entry(SECOND, sync(2, None))]
    entries = [
        Entry(entry.time_ns, msgspec.structs.replace(entry.event, zero_pages=None, newly_dirty_pages=500))
        if isinstance(entry.event, Synced)
        else entry
        for entry in old
    ]
    trace = read_trace(entries, "x")
    assert (trace.used_pages, trace.written_pages) == (30_000, 500)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ([Entry(0, STARTED)], "ended in its first pass"),
        (journal([]), "ended in its first pass"),
        ([Entry(0, msgspec.structs.replace(STARTED, page_size=1))], "100000 pages of 1 bytes"),
        ([Entry(0, msgspec.structs.replace(STARTED, page_count=1 << 60))], "pages of 4096 bytes"),
        ([Entry(0, STARTED), Entry(9, sync(1, 0)), Entry(5, sync(2, 0))], "after -4 ns"),
        ([*journal([]), Entry(9, throttled(100)), Entry(10, sync(2, 0))], "throttle 100 %"),
        (journal([(SECOND, PAGES + 1)]), "100001 dirty pages"),
    ],
)
def test_what_cannot_be_is_one_line(entries: list[Entry], complaint: str) -> None:
    with pytest.raises(UsageError, match=f"^here: .*{complaint}"):
        read_trace(entries, "here")


@given(st.lists(st.tuples(st.integers(0, 1 << 62), st.integers(0, PAGES)), max_size=20))
def test_every_journal_is_read_or_refused(samples: list[tuple[int, int]]) -> None:
    try:
        trace = read_trace(journal(samples), "x")
    except UsageError:
        return
    assert isinstance(trace, DirtyTrace)
    assert trace.written_pages <= trace.used_pages <= PAGES
    assert written(TracePattern(trace), SECOND) <= trace.written_pages


def test_a_time_of_many_rounds_costs_no_more_than_one() -> None:
    steps = ((SECOND // 50, 1.0), (SECOND // 100, 0.5), (SECOND // 100, 0.0))
    pattern = TracePattern(DirtyTrace(used_pages=PAGES, sweeps=((1000, 10**6 * SECOND),), steps=steps, shortest_ns=1))
    assert written(pattern, 10**6 * SECOND) == pytest.approx(250, abs=1), "half of the pages in half of the time"
    assert written(pattern, 2**62) == 500


def scattered(sweeps: tuple[tuple[int, int], ...]) -> TracePattern:
    steps = ((SECOND, 1.0),)
    return TracePattern(DirtyTrace(used_pages=PAGES, sweeps=sweeps, steps=steps, shortest_ns=1, scattered=True))


@given(st.integers(1, PAGES), st.lists(st.integers(1, SECOND // 3), min_size=1, max_size=20))
def test_pages_in_another_order_are_as_many(pages: int, parts_ns: list[int]) -> None:
    pattern, bitmap = scattered(((pages, SECOND),)), Bitmap(PAGES)
    for part_ns in parts_ns:
        pattern.write(part_ns, bitmap)
    expected = pages * min(1.0, sum(parts_ns) / SECOND)
    assert bitmap.count() == pytest.approx(expected, abs=len(parts_ns) + 64)
    assert not bitmap.runs() or bitmap.runs().last_page < pages


def test_what_is_scattered_is_about_even_wherever_one_looks() -> None:
    pattern = scattered(((PAGES, SECOND),))
    for _ in range(5):
        bitmap = Bitmap(PAGES)
        pattern.write(SECOND // 5, bitmap)
        fifths = [bitmap.test_runs(PageRuns.of([(at, PAGES // 5)])).sum() for at in range(0, PAGES, PAGES // 5)]
        assert min(fifths) > 0.6 * PAGES / 25
        assert max(fifths) < 1.4 * PAGES / 25
