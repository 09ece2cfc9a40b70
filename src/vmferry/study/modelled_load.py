"""What a modelled guest writes: as the dirty curve of a survey says, and by turns where it was seen to do so."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vmferry.convergence.curve import DirtyCurve, curve_of
from vmferry.convergence.hull import concave_corners, sweeps_of
from vmferry.convergence.written import Written
from vmferry.experiment.dirty_trace import DirtyTrace
from vmferry.experiment.parts import LoadSpec
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.study.bursts import Bursts
from vmferry.study.draws import Draw
from vmferry.study.survey import Survey
from vmferry.units import NS_PER_S

_SATURATED = 0.95
"""A guest that wants more of its CPU than this takes whatever it gets."""
_LEAST_DEMAND = 0.01
_WRITE_BYTES_PER_S = 2_000_000_000
"""What a vCPU that does nothing else writes, of pages that are logged: 1.95 GB/s was measured (bench/driven.py)."""


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
    bursts = survey.bursts
    if bursts is None:
        doing = _Doing(survey.written, survey.curve(), survey.demand)
        return (_load(survey, doing, draw, divisor, used_pages, NS_PER_S),)
    busy_demand, calm_demand = _demands(survey.demand, bursts)
    doings = {
        True: _Doing(bursts.busy, survey.curve(), busy_demand),
        False: _Doing(bursts.calm, curve_of(bursts.calm, survey.memory_bytes), calm_demand),
    }
    return tuple(
        _load(survey, doings[spell.busy], draw, divisor, used_pages, spell.duration_ns)
        for spell in bursts.spells_from(draw.start)
    )


def _demands(demand: float, bursts: Bursts) -> tuple[float, float]:
    """Return which share of its CPU the guest wants in bursts and in calms: bursts want as much of it as they can."""
    share = bursts.busy_share
    busy = min(1.0, demand / share) if share else 1.0
    calm = (demand - share * busy) / (1 - share) if share < 1 else 1.0
    return busy, min(1.0, max(_LEAST_DEMAND, calm))


def _load(survey: Survey, doing: _Doing, draw: Draw, divisor: int, used_pages: int, duration_ns: int) -> LoadSpec:
    """Return one thing that the guest does, for so much CPU time where it does several by turns."""
    (shortest_ns, shortest_bytes), *_ = points = _points(survey, doing)
    hurry = _hurry(survey.vcpu_count * doing.demand, shortest_bytes * NS_PER_S / shortest_ns) ** draw.haste
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


def _hurry(vcpus: float, seen_bytes_per_s: float) -> float:
    """Return how many times faster than the shortest window shows so many vCPUs may write what that found.

    A window that is longer than a round of the guest over its set sees each page once, however many rounds there were.
    """
    return max(1.0, _WRITE_BYTES_PER_S * vcpus / max(1.0, seen_bytes_per_s))


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
