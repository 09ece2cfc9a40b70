"""How the figures of migrations are told. None is what nobody knows."""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self

from vmferry.migration.outcome import Outcome
from vmferry.units import MS_PER_S, UNKNOWN, format_ms, format_size, told

_FACTOR = 2
"""Errors beyond it are told as a factor: "-89 %" and "+842 %" do not show that they are alike."""


@dataclass(frozen=True)
class Spread:
    """What repeats came to: the median, the least and the greatest of those of which it is known."""

    median: float
    low: float
    high: float
    count: int
    """How many those are."""

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Self | None:
        """Return what they come to; None if nothing is known."""
        known = sorted(value for value in values if value is not None)
        return cls(statistics.median(known), known[0], known[-1], len(known)) if known else None


def middle(spread: Spread | None) -> float | None:
    """Return the median of what may not be known."""
    return spread.median if spread else None


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of what is known, between the middle two of an even number; None if nothing is."""
    return middle(Spread.of(values))


def spread_text(spread: Spread | None, text: Callable[[float], str]) -> str:
    """Return the median, and of several values the least and the greatest, such as `12 s (11 s to 13 s)`."""
    if spread is None:
        return UNKNOWN
    between = f" ({text(spread.low)} to {text(spread.high)})" if spread.count > 1 else ""
    return f"{text(spread.median)}{between}"


def time_text(time_ms: float | None) -> str:
    """Return a time such as `12.4 s`."""
    return told(time_ms, format_ms)


def seconds_text(time_ms: float | None) -> str:
    """Return seconds for a column of a table."""
    return told(time_ms, lambda ms: f"{ms / MS_PER_S:.1f}", "-")


def count_text(count: float | None, unknown: str = "-") -> str:
    """Return a whole number for a column of a table."""
    return told(count, lambda value: f"{value:.0f}", unknown)


def percent_text(percent: float | None, unknown: str = UNKNOWN) -> str:
    """Return a share such as `19 %`."""
    return told(percent, lambda value: f"{value:.0f} %", unknown)


def ratio_text(ratio: float | None, unknown: str = "-") -> str:
    """Return a multiple such as `1.25`."""
    return told(ratio, lambda value: f"{value:.2f}", unknown)


def error_text(ratio: float) -> str:
    """Return how far off something is, by what it is of what it should be: `+12%`, and beyond twice or half `x 9.4`."""
    return f"x {ratio:.2g}" if is_far(ratio) else f"{ratio - 1:+.0%}"


def is_far(ratio: float) -> bool:
    """Tell whether one figure is more than twice or less than half of the other."""
    return not 1 / _FACTOR <= ratio <= _FACTOR


def distance_text(factor: float) -> str:
    """Return how far two figures are apart, the greater being `factor` times the other: `12%`, or `a factor of 9.4`."""
    return f"a factor of {factor:.2g}" if is_far(factor) else f"{factor - 1:.0%}"


def lost_text(outcome: Outcome, digits: int = 0) -> str:
    """Return what the guest lost, such as `19 % (15.2 vCPU s)`."""
    if outcome.work_lost_percent is None or outcome.work_lost_vcpu_s is None:
        return percent_text(outcome.work_lost_percent)
    return f"{outcome.work_lost_percent:.{digits}f} % ({outcome.work_lost_vcpu_s:.1f} vCPU s)"


def sent_text(outcome: Outcome) -> str:
    """Return what was sent, such as `1.41 GiB, 1.25 x the guest's memory`."""
    times = ratio_text(outcome.sent_per_memory, UNKNOWN)
    return told(outcome.sent_bytes, lambda size: f"{format_size(size)}, {times} x the guest's memory")
