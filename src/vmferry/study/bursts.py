"""Tells the bursts of a guest, in which it writes much, from its calms, in which it writes little.

A look is a window in which it was found what the guest writes. A guest that does always the same writes about what the
lowest concave curve above all looks says of so much time, however long a look is (`convergence/curve.py`). One that
rests finds far less in some of them. Then the short looks tell, one after the other, when it wrote and when it rested;
a long look cannot, as a burst in it may have been of any length. All looks together are the curve of a burst, as they
are for a guest that never rests; those that fell into calms are that of a calm.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from vmferry.convergence.hull import concave_corners
from vmferry.convergence.written import Written

_LITTLE = 0.4
"""A look that finds less than this share of what the curve says is one of a calm: steady guests, and samples of
random writers, differ less."""
_SELDOM = 0.1
"""A guest that is found so in a smaller share of all looks does always the same: a host may hold it up now and then,
and who writes more than 90 % of the time hardly rests."""
_LEAST_BYTES = 2 << 20
"""No burst is one that writes no more than this beside what a calm does."""
_SHORT = 2
"""A look of at most so many times the length of the shortest is short."""
_AS_IN_CALMS = 1.5
"""A longer look is one of a calm alone if it finds at most so many times what calms write in so much time."""
_ALL = 0.95


@dataclass(frozen=True)
class Look:
    """What the guest has written from a moment on."""

    begin_ns: int
    """Since somebody began to look."""
    written: Written


@dataclass(frozen=True)
class Spell:
    """How long the guest writes much, or little."""

    duration_ns: int
    busy: bool


@dataclass(frozen=True)
class Bursts:
    """What it does by turns: spells of writing much, and of writing little."""

    spells: tuple[Spell, ...]
    """In the order in which they were seen, so long as somebody looked."""
    busy: tuple[Written, ...]
    """Points of the curve of a burst, the shortest time first."""
    calm: tuple[Written, ...]
    """Those of a calm."""

    @property
    def busy_share(self) -> float:
        """The share of the time in which it writes much."""
        busy_ns = sum(spell.duration_ns for spell in self.spells if spell.busy)
        return busy_ns / sum(spell.duration_ns for spell in self.spells)

    def spells_from(self, share: float) -> list[Spell]:
        """Return one round of spells, beginning when so much of it has passed: 0 to 1."""
        passed_ns = round(share * sum(spell.duration_ns for spell in self.spells))
        before, after = [], []
        for spell in self.spells:
            first_ns = min(spell.duration_ns, passed_ns)
            passed_ns -= first_ns
            before.append(Spell(first_ns, spell.busy))
            after.append(Spell(spell.duration_ns - first_ns, spell.busy))
        return list(_joined([*after, *before]))


def bursts_of(looks: Sequence[Look]) -> Bursts | None:
    """Return what a guest does by turns; None if it was seen to do always the same."""
    if not looks:
        return None
    said_bytes = _said_bytes(looks)
    calm = {look for look, said in zip(looks, said_bytes, strict=True) if _is_calm(look, said)}
    if not calm or len(calm) < _SELDOM * len(looks):
        return None
    spells = tuple(_joined(_spells(looks, calm)))
    if not spells:
        return None
    return Bursts(
        spells=spells,
        busy=tuple(_rising(look.written for look in looks)),
        calm=tuple(_calm_points([look.written for look in looks if look in calm])),
    )


def _said_bytes(looks: Sequence[Look]) -> list[float]:
    """Return what the lowest concave curve above all looks says of the time that each took."""
    found = sorted((float(look.written.duration_ns), float(look.written.distinct_bytes)) for look in looks)
    durations_ns, distinct_bytes = zip(*concave_corners(found), strict=True)
    said: list[float] = np.interp([look.written.duration_ns for look in looks], durations_ns, distinct_bytes).tolist()
    return said


def _is_calm(look: Look, said_bytes: float) -> bool:
    found_bytes = look.written.distinct_bytes
    return found_bytes < _LITTLE * said_bytes and said_bytes - found_bytes > _LEAST_BYTES


def _spells(looks: Sequence[Look], calm: set[Look]) -> Iterator[Spell]:
    """Yield what the guest did from each look to the next; what a long one hides is left out if short ones tell.

    If none of them has seen a burst, one in a long look lasted as long as it takes to write what that found.
    """
    shortest_ns = min(look.written.duration_ns for look in looks)
    busy = [look for look in looks if look not in calm]
    short = [look for look in busy if look.written.duration_ns <= _SHORT * shortest_ns]
    ends_ns = [*(after.begin_ns for after in looks[1:]), looks[-1].begin_ns + looks[-1].written.duration_ns]
    for look, end_ns in zip(looks, ends_ns, strict=True):
        duration_ns = end_ns - look.begin_ns
        if look in calm or look in short:
            yield Spell(duration_ns, look not in calm)
        elif not short:
            busy_ns = min(duration_ns, _writing_ns(look, looks))
            yield Spell(busy_ns, busy=True)
            yield Spell(duration_ns - busy_ns, busy=False)


def _writing_ns(look: Look, looks: Sequence[Look]) -> int:
    """Return how long it takes in a burst to write nearly what a look has found."""
    points = [
        (0, 0),
        *((point.duration_ns, point.distinct_bytes) for point in _rising(other.written for other in looks)),
    ]
    durations_ns, distinct_bytes = zip(*points, strict=True)
    return round(float(np.interp(_ALL * look.written.distinct_bytes, distinct_bytes, durations_ns)))


def _joined(spells: Iterable[Spell]) -> Iterator[Spell]:
    """Yield spells of which no two neighbours are of a kind, and none takes no time."""
    for busy, alike in groupby((spell for spell in spells if spell.duration_ns), key=lambda spell: spell.busy):
        yield Spell(sum(spell.duration_ns for spell in alike), busy)


def _rising(points: Iterable[Written]) -> Iterator[Written]:
    """Yield the most that was found in each time, and never less than in a shorter one."""
    most_bytes = 0
    for duration_ns, alike in groupby(sorted(points, key=_duration_ns), key=_duration_ns):
        most_bytes = max(most_bytes, *(point.distinct_bytes for point in alike))
        yield Written(duration_ns, 1.0, most_bytes)


def _calm_points(points: Sequence[Written]) -> Iterator[Written]:
    """Yield what calms write in the mean, by the shortest looks; and in a longer time what that found which hold none
    but calms."""
    by_duration = [list(alike) for _, alike in groupby(sorted(points, key=_duration_ns), key=_duration_ns)]
    bytes_per_ns = _mean_bytes(by_duration[0]) / by_duration[0][0].duration_ns
    for alike in by_duration:
        duration_ns = alike[0].duration_ns
        alone = [point for point in alike if point.distinct_bytes <= _AS_IN_CALMS * bytes_per_ns * duration_ns]
        if alike is by_duration[0] or alone:
            yield Written(duration_ns, 1.0, round(_mean_bytes(alike if alike is by_duration[0] else alone)))


def _mean_bytes(points: Sequence[Written]) -> float:
    return sum(point.distinct_bytes for point in points) / len(points)


def _duration_ns(point: Written) -> int:
    return point.duration_ns
