"""Plots, wherever they are shown: looks, axes, marks, and no more points than can be seen."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.report.samples import simulated_runs
from tests.report.test_series import COURSE, decided, ended, journal, started, window
from vmferry.convergence.variants import ALL_VARIANTS
from vmferry.migration.events import Event, Measured, Ordered
from vmferry.report.axes import linear_ticks, size_axis
from vmferry.report.course import MAX_DRAWN, MAX_POINTS, course_plots
from vmferry.report.journal_runs import run_series
from vmferry.report.look import COLOURS, DARK_COLOURS, LOOKS, looks_of, style
from vmferry.report.panels import ALL_PANELS, GUEST_DIRTIES, LINK_CARRIES, NEWLY_DIRTY, PERIODS, REMAINING
from vmferry.report.plot import Plot
from vmferry.report.runs import variants_of
from vmferry.report.series import RunSeries, Series


def plots_of(runs: list[RunSeries]) -> list[Plot]:
    return course_plots(runs, ALL_PANELS, looks_of(variants_of(runs)))


def drawn(plot: Plot) -> ET.Element:
    return ET.fromstring(f"<svg>{''.join(plot.parts)}</svg>")


def looks(runs: list[RunSeries]) -> dict[str, int]:
    return looks_of(variants_of(runs))


def test_a_variant_has_its_look_everywhere() -> None:
    by_variant = {run.variant: run for run in simulated_runs()}
    alone = {name: looks([run])[run.label] for name, run in by_variant.items()}
    assert len(set(alone.values())) == 4
    recorded = replace(by_variant["background-sync"], label="recorded")
    of_a_vm = replace(by_variant["original"], label="db: original")
    together = looks([recorded, of_a_vm, *by_variant.values()])
    assert {name: together[name] for name in by_variant} == alone
    assert not {together["recorded"], together["db: original"]} & set(alone.values())
    for label, variant in (("recorded", "background-sync"), ("db: original", "original")):
        assert together[label] % len(COLOURS) == alone[variant], "it has the policy's colour"
    assert looks([of_a_vm]) == {"db: original": alone["original"]}


def test_looks_differ_with_and_without_colour() -> None:
    assert len(COLOURS) == len(DARK_COLOURS) == len(set(COLOURS)) == len(set(DARK_COLOURS)) >= len(ALL_VARIANTS) + 1
    rules = re.findall(r"(\.line\.k[^{]*)\{stroke-dasharray:([^}]*)\}", style())
    dashes = {int(number): dash for classes, dash in rules for number in re.findall(r"\d+", classes)}
    assert dashes.keys() == set(LOOKS)
    assert len({dashes[look] for look in range(5)}) == 5
    for colour in range(len(COLOURS)):
        assert len({dashes[look] for look in LOOKS[colour :: len(COLOURS)]}) > MAX_DRAWN


def test_every_panel_has_one_line_for_each_label() -> None:
    for plot in plots_of(simulated_runs()):
        lines = [path.get("class", "") for path in drawn(plot).iter("path") if "line" in path.get("class", "")]
        assert sorted(lines) == [f"line k{look}" for look in range(4)], plot.title


def test_a_thousand_windows_are_no_hairball() -> None:
    events: list[tuple[float, Event]] = [(0, started())]
    events += [(number / 10, window(10**6 * (number % 7), 10**6)) for number in range(1, 2000)]
    run = run_series(journal(*events, (200, ended(200))), "x")
    assert len(run.bandwidth_bytes_per_s) > 1900
    [plot] = course_plots([run], [LINK_CARRIES], {"x": 0})
    [line] = [path.get("d", "") for path in drawn(plot).iter("path") if path.get("class") == "line k0"]
    assert 0 < line.count("H") <= PERIODS
    [plot] = course_plots([run], [REMAINING], {"x": 0})
    assert len(re.findall("[ML]", "".join(plot.parts))) <= MAX_POINTS


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e9)), min_size=1, max_size=80), st.integers(1, 20))
def test_periods_are_medians_and_quartiles_of_their_own_values(points: list[tuple[float, float]], count: int) -> None:
    series = Series.of(sorted(points))
    periods = series.periods(count)
    assert 0 < len(periods) <= count
    for period in periods:
        inside = sorted(
            value
            for time, value in series.points()
            if period.start_s < time <= period.end_s or (period.start_s == 0 == time)
        )
        assert inside[0] <= period.low <= period.median <= period.high <= inside[-1]
    assert sum(period.end_s > period.start_s for period in periods) == len(periods)


def test_what_the_guest_dirties_is_its_own_rate_and_not_the_links() -> None:
    measured = Measured(window_ns=10**9, dirty_pages=500, sync_count=0, mode="dirty-bitmap")
    run = run_series(journal(*COURSE[:-3], (16, measured), *COURSE[-3:]), "x")
    assert list(run.guest_dirties_bytes_per_s.points()) == [(15, 500 * 4096), (16, 500 * 4096)]
    assert GUEST_DIRTIES.has_lines([run])
    assert not NEWLY_DIRTY.has_lines([run])
    seldom = run_series(journal(*COURSE[:4], (6, measured), *COURSE[4:]), "x")
    assert not GUEST_DIRTIES.has_lines([seldom])
    assert NEWLY_DIRTY.has_lines([seldom])
    unknown = run_series(journal(*COURSE), "x")
    assert not GUEST_DIRTIES.has_lines([unknown])
    assert NEWLY_DIRTY.has_lines([unknown])


def texts(plots: list[Plot]) -> list[str]:
    return [text.text or "" for plot in plots for text in drawn(plot).iter("text")]


def test_the_switchover_is_marked_by_its_labels_number() -> None:
    runs = simulated_runs()
    first, *others = plots_of(runs)
    marks = [line for line in drawn(first).iter("line") if "mark" in line.get("class", "")]
    assert sorted(line.get("class", "") for line in marks) == [f"mark k{look}" for look in range(4)]
    assert {"1", "2", "3", "4"} <= set(texts([first]))
    assert all("mark k0" in "".join(plot.parts) for plot in others)


def test_limits_and_the_deadline_are_marked() -> None:
    ordered = Ordered(deadline_ns=25 * 10**9, max_throttle_percent=60)
    plots = plots_of([run_series(journal(COURSE[0], (0, ordered), *COURSE[1:]), "x")])
    told = texts(plots)
    assert "deadline 25 s" in told
    assert "limit 60 %" in told
    assert "limit of the throttle 60 %" in told
    far = Ordered(deadline_ns=3600 * 10**9)
    assert "deadline" not in " ".join(texts(plots_of([run_series(journal(COURSE[0], (0, far), *COURSE[1:]), "x")])))
    assert "limit" not in " ".join(texts(plots_of([run_series(journal(*COURSE), "x")])))


def test_a_throttle_may_be_limited_by_the_parameter_alone() -> None:
    run = run_series(journal((0, started(max_cpu_throttle=70)), (1, decided(0, 20)), (2, ended(2))), "x")
    assert "limit 70 %" in texts(plots_of([run]))


def test_ticks_are_round() -> None:
    assert [text for _, text in linear_ticks(425, 8)] == ["0", "100", "200", "300", "400"]
    assert [text for _, text in linear_ticks(0.07)] == ["0", "0.02", "0.04", "0.06"]
    assert [text for _, text in size_axis(100 << 30).ticks] == ["64 MiB", "1 GiB", "16 GiB"]
