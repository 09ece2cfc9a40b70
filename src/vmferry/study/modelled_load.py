"""What a modelled guest writes: as the dirty curve of a survey says, and by turns where it was seen to do so."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vmferry.convergence.curve import DirtyCurve, curve_of
from vmferry.convergence.hull import concave_corners, sweeps_of
from vmferry.convergence.written import Written
from vmferry.experiment.dirty_trace import DirtyTrace
from vmferry.experiment.parts import LoadSpec
from vmferry.study.draws import Draw
from vmferry.study.survey import Survey
from vmferry.units import NS_PER_S, PAGE_SIZE_BYTES

_SATURATED = 0.95
"""A guest that wants more of its CPU than this takes whatever it gets."""
_LEAST_DEMAND = 0.01
_WRITE_BYTES_PER_S = 7_500_000_000
"""What a vCPU that does nothing else may write of distinct pages, in bytes of pages: a Linux guest in an emulated CPU
(TCG) that writes a word in each comes to 1.8 million pages of 4 KiB per second; one that writes whole pages, with KVM,
to a quarter of that (bench/driven.py)."""


@dataclass(frozen=True)
class _Doing:
    """One of the things that the guest does."""

    points: Sequence[Written]
    curve: DirtyCurve
    demand: float
    """The share of its CPU that it wants for that."""


def loads_of(survey: Survey, draw: Draw, divisor: int, used_pages: int) -> tuple[LoadSpec, ...]:
    """Return what the guest does: traces in CPU time, which is asked for at the pace that it was seen to have.

    Memory is that of a model that is `divisor` times smaller, of which `used_pages` hold something.
    """
    bursts, busy = survey.bursts, _busy(survey)
    if bursts is None:
        return (_load(survey, busy, draw, divisor, used_pages, NS_PER_S),)
    calm_demand = _calm_demand(survey.demand, busy.demand, bursts.busy_share)
    calm = _Doing(bursts.calm, curve_of(bursts.calm, survey.memory_bytes), calm_demand)
    return tuple(
        _load(survey, busy if spell.busy else calm, draw, divisor, used_pages, spell.duration_ns)
        for spell in bursts.spells_from(draw.start)
    )


def hurry_of(survey: Survey) -> float:
    """Return how many times faster than the shortest window shows the guest may write what that found."""
    busy = _busy(survey)
    return _hurry(survey, busy, _points(survey, busy))


def _busy(survey: Survey) -> _Doing:
    """Return what the guest does, or in bursts if it has any: they want as much of its CPU as they can."""
    bursts = survey.bursts
    if bursts is None:
        return _Doing(survey.written, survey.curve(), survey.demand)
    share = bursts.busy_share
    return _Doing(bursts.busy, survey.curve(), min(1.0, survey.demand / share) if share else 1.0)


def _calm_demand(demand: float, busy_demand: float, busy_share: float) -> float:
    """Return which share of its CPU the guest wants between bursts."""
    calm = (demand - busy_share * busy_demand) / (1 - busy_share) if busy_share < 1 else 1.0
    return min(1.0, max(_LEAST_DEMAND, calm))


def _load(survey: Survey, doing: _Doing, draw: Draw, divisor: int, used_pages: int, duration_ns: int) -> LoadSpec:
    """Return one thing that the guest does, for so much CPU time where it does several by turns."""
    points = _points(survey, doing)
    shortest_ns, hurry = points[0][0], _hurry(survey, doing, points) ** draw.haste
    sweeps = _sweeps(points, draw.written / divisor, used_pages)
    trace = DirtyTrace(
        used_pages=used_pages,
        sweeps=tuple(
            (pages, max(1, round(doing.demand * (ns / hurry if ns <= shortest_ns else ns)))) for pages, ns in sweeps
        ),
        steps=((NS_PER_S, 1.0),),
        shortest_ns=max(1, round(shortest_ns * doing.demand)),
        scattered=True,
    )
    pace = round(NS_PER_S * doing.demand) if doing.demand < _SATURATED else 0
    return LoadSpec(
        pattern="trace",
        trace=trace,
        pace_bytes_per_s=pace,
        write_bytes_per_s=NS_PER_S if pace else 0,
        duration_ns=duration_ns,
    )


def _hurry(survey: Survey, doing: _Doing, points: Sequence[tuple[float, float]]) -> float:
    """Return how many times faster than its shortest window shows the guest may write what that found.

    A window that is longer than a round of the guest over its set sees each page once, however many rounds there were.
    """
    shortest_ns, shortest_bytes = points[0]
    could_bytes = _WRITE_BYTES_PER_S * survey.vcpu_count * doing.demand * shortest_ns / NS_PER_S
    return max(1.0, could_bytes / max(1.0, shortest_bytes))


def _sweeps(points: Sequence[tuple[float, float]], factor: float, used_pages: int) -> list[tuple[int, int]]:
    """Return sweeps that write together as points of a curve say: pages, and the time of one round."""
    sweeps, left = [], used_pages
    for written_bytes, work_ns in sweeps_of(concave_corners(points)):
        pages = min(left, round(factor * written_bytes / PAGE_SIZE_BYTES))
        if pages and work_ns >= 1:
            sweeps.append((pages, round(work_ns)))
            left -= pages
    return sweeps


def _points(survey: Survey, doing: _Doing) -> list[tuple[float, float]]:
    """Return points of the curve: where it is known, and beyond that at twice the time, until a pass is over."""
    pass_ns = survey.used_bytes / survey.memory_bytes_per_s * NS_PER_S
    times_ns = sorted({float(point.duration_ns) for point in doing.points})
    while times_ns[-1] < pass_ns:
        times_ns.append(2 * times_ns[-1])
    distinct = np.minimum(doing.curve.distinct_bytes(np.array(times_ns)), survey.used_bytes)
    return list(zip(times_ns, distinct.tolist(), strict=True))
