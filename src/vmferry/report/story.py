"""What happened in a migration and why, in the order of time: for the terminal and for pages alike."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from vmferry.report.series import Decision, RunSeries
from vmferry.units import UNKNOWN


@dataclass(frozen=True)
class Line:
    """One thing that was decided, or that happened."""

    time_s: float
    what: str
    reason: str


def story(run: RunSeries) -> list[Line]:
    """Return all of it: decisions on the throttle, other deeds, and the throttle alone where the VM told no reasons."""
    deeds = (Line(deed.time_s, deed.what, deed.reason) for deed in run.deeds)
    return sorted([*_throttle(run), *deeds], key=lambda line: line.time_s)


def headline(run: RunSeries) -> str:
    """Return what the story is of."""
    if run.decisions is None:
        return "What was decided is unknown: the VM decided by itself. What was seen"
    return "What was decided, and why" if run.decisions else "Nothing was decided about the throttle. What happened"


def shadow_lines(run: RunSeries) -> Sequence[Line]:
    """Return what a policy that only looked on would have done."""
    return [Line(shadow.time_s, shadow.variant, shadow.reason) for shadow in run.shadows]


def _throttle(run: RunSeries) -> Iterator[Line]:
    if run.decisions is not None:
        yield from (Line(each.time_s, _place(each), each.reason) for each in run.decisions)
        return
    for percent, points in groupby(run.throttle_percent.points(), key=lambda point: point[1]):
        yield Line(next(points)[0], f"{percent:.0f} %", f"why is {UNKNOWN}")


def _place(decision: Decision) -> str:
    """Say at which sync it was decided."""
    return f"{'in' if decision.background_sync else 'start of'} {decision.iteration_count}"
