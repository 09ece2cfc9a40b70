"""The panels of a migration's course: what each shows over time, and on which axis."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from vmferry.report.axes import Axis, count_axis, percent_axis, rate_axis, size_axis
from vmferry.report.series import RunSeries, Series, Shape

PERIODS = 60
"""Into so many equal parts a course is cut where only the median of each part is drawn."""


@dataclass(frozen=True)
class Panel:
    """A part of the picture that shows one figure over time."""

    title: str
    series: Callable[[RunSeries], Series]
    shape: Shape
    make_axis: Callable[[float], Axis]
    in_periods: bool = False
    """True if it is of many samples that scatter: drawn are the median of each period, and its quartiles."""

    def axis(self, runs: Iterable[RunSeries]) -> Axis:
        """Return an axis on which all of the runs have room."""
        return self.make_axis(max((self._highest(run) for run in runs), default=1))

    def has_lines(self, runs: Iterable[RunSeries]) -> bool:
        """Tell whether there is anything to draw."""
        return any(len(self.series(run)) for run in runs)

    def _highest(self, run: RunSeries) -> float:
        series = self.series(run)
        if self.in_periods:
            return max((period.high for period in series.periods(PERIODS)), default=0)
        return float(series.values.max()) if len(series) else 0


MEASURED_SPEED = Panel(
    "Guest's work, measured: pages/s", lambda run: run.written_pages_per_s, Shape.PERIODS, count_axis, in_periods=True
)
SPEED = Panel(
    "Guest speed (100 - throttle)",
    lambda run: Series.of(()) if len(run.written_pages_per_s) else run.guest_speed_percent,
    Shape.STEPS,
    percent_axis,
)
THROTTLE = Panel("Throttle", lambda run: run.throttle_percent, Shape.STEPS, percent_axis)
REMAINING = Panel("Remaining memory, logarithmic", lambda run: run.remaining_bytes, Shape.LINE, size_axis)
GUEST_DIRTIES = Panel(
    "The guest dirties (its own rate)",
    lambda run: run.guest_dirties_bytes_per_s if run.guest_is_watched else Series.of(()),
    Shape.PERIODS,
    rate_axis,
)
NEWLY_DIRTY = Panel(
    "Newly dirty at syncs",
    lambda run: Series.of(()) if run.guest_is_watched else run.newly_dirty_bytes_per_s,
    Shape.PERIODS,
    rate_axis,
)
LINK_CARRIES = Panel(
    "The link carries", lambda run: run.bandwidth_bytes_per_s, Shape.PERIODS, rate_axis, in_periods=True
)
ITERATIONS = Panel("Iterations (dots: background syncs)", lambda run: run.iterations, Shape.STEPS, count_axis)

ALL_PANELS = (MEASURED_SPEED, SPEED, THROTTLE, REMAINING, GUEST_DIRTIES, NEWLY_DIRTY, LINK_CARRIES, ITERATIONS)
FEW_PANELS = (REMAINING, SPEED)
FEW_PANELS_MEASURED = (REMAINING, THROTTLE, MEASURED_SPEED, SPEED)
"""The throttle has a panel of its own where the guest's speed is not just what it leaves."""
