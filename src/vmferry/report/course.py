"""Draws the course of migrations: panels under each other on one time axis, with marks at what matters.

Of the runs of one label one is drawn, that of median total time. Marks are the moment at which the guest was stopped to
be moved, numbered like its label, and the limits that the operator has set.
"""

from collections.abc import Iterable, Mapping, Sequence

from vmferry.report.figures import percent_text, time_text
from vmferry.report.panels import ITERATIONS, PERIODS, SPEED, THROTTLE, Panel
from vmferry.report.plot import Area, Plot
from vmferry.report.runs import by_label, median_run
from vmferry.report.series import RunSeries
from vmferry.units import MS_PER_S, NS_PER_S

MAX_POINTS = 400
"""How many points a line may have."""
MAX_DRAWN = 6
"""Lines of so many labels can be told apart."""
_FAR = 1.5
"""A deadline is drawn if it is no farther away than so many times the longest course."""
_MARK_ROWS = 3
_NO_LIMIT_PERCENT = 99
"""What `max-cpu-throttle` is by default; a guest cannot be slowed more."""


def drawn(runs: Iterable[RunSeries]) -> list[RunSeries]:
    """Return the runs that are drawn: of each label the one that stands for its repeats.

    Of more than MAX_DRAWN labels, those are left out that did not complete or took longest.
    """
    shown = [median_run(repeats) for repeats in by_label(runs).values()]
    by_time = sorted(shown, key=lambda run: (not run.outcome.completed, run.total_s))
    return [run for run in shown if run in by_time[:MAX_DRAWN]]


def course_plots(runs: Sequence[RunSeries], panels: Iterable[Panel], looks: Mapping[str, int]) -> list[Plot]:
    """Return the panels in which there is something to draw; the looks have the order of the labels' numbers."""
    shown = drawn(runs)
    deadlines = _deadlines(shown)
    longest_s = max((run.total_s for run in shown), default=0) or 1
    width = max([longest_s, *(deadline_s for deadline_s in deadlines if deadline_s <= _FAR * longest_s)])
    plots: list[Plot] = []
    for panel in panels:
        if panel.has_lines(shown):
            area = Area(axis=panel.axis(shown), width=width)
            for run in shown:
                _draw(area, panel, run, f"k{looks[run.label]}")
            _mark(area, panel, shown, looks, is_first=not plots)
            plots.append(area.plot(panel.title))
    return plots


def _draw(area: Area, panel: Panel, run: RunSeries, css: str) -> None:
    series = panel.series(run)
    if panel.in_periods:
        periods = series.periods(PERIODS)
        area.band(((period.start_s, period.end_s, period.low, period.high) for period in periods), css)
        area.line(series.medians(PERIODS), panel.shape, css)
    else:
        area.line(series.thinned(MAX_POINTS), panel.shape, css)
    if panel is THROTTLE:
        changes = run.changes()
        for decision in changes[:: len(changes) // PERIODS + 1]:
            area.dot((decision.time_s, decision.throttle_percent), f"dot {css}", decision.reason)
    if panel is ITERATIONS:
        for place in run.background_syncs.thinned(PERIODS).points():
            area.dot(place, f"dot {css}", "background sync")


def _mark(area: Area, panel: Panel, runs: Sequence[RunSeries], looks: Mapping[str, int], *, is_first: bool) -> None:
    numbers = {label: number for number, label in enumerate(looks, 1)}
    stopped = [(run.switchover_s, run.label) for run in runs if run.switchover_s is not None]
    for place, (time_s, label) in enumerate(sorted(stopped)):
        text = str(numbers[label]) if is_first else ""
        area.vertical(time_s, f"mark k{looks[label]}", text, place % _MARK_ROWS)
    for deadline_s in _deadlines(runs):
        if deadline_s <= area.width:
            text = f"deadline {time_text(deadline_s * MS_PER_S)}" if is_first else ""
            area.vertical(deadline_s, "limit", text, _MARK_ROWS)
    for percent in sorted({limit for run in runs if (limit := _throttle_limit(run)) is not None}):
        if panel is THROTTLE:
            area.horizontal(percent, f"limit {percent_text(percent)}")
        elif panel is SPEED:
            area.horizontal(100 - percent, f"limit of the throttle {percent_text(percent)}")


def _throttle_limit(run: RunSeries) -> int | None:
    """Return by how much the guest may be slowed, if that is less than is possible."""
    set_percent = run.limits.max_throttle_percent if run.limits else None
    own = run.started.parameters.get("max-cpu-throttle")
    known = [value for value in (set_percent, own) if isinstance(value, int) and 0 <= value < _NO_LIMIT_PERCENT]
    return min(known, default=None)


def _deadlines(runs: Iterable[RunSeries]) -> list[float]:
    limits = (run.limits for run in runs if run.limits)
    return sorted({limit.deadline_ns / NS_PER_S for limit in limits if limit.deadline_ns is not None})
