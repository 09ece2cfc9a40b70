"""How the figures of a migration are told. None is what nobody knows."""

import statistics
from collections.abc import Iterable

from vmferry.migration.outcome import Outcome
from vmferry.units import UNKNOWN, format_duration, format_size, told

_NS_PER_MS = 1_000_000
_MS_PER_S = 1000


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of what is known, between the middle two of an even number; None if nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def time_text(time_ms: float | None) -> str:
    """Return a time such as `12.4 s`."""
    return told(time_ms, lambda ms: format_duration(round(ms * _NS_PER_MS)))


def seconds_text(time_ms: float | None) -> str:
    """Return seconds for a column of a table."""
    return told(time_ms, lambda ms: f"{ms / _MS_PER_S:.1f}", "-")


def count_text(count: float | None, unknown: str = "-") -> str:
    """Return a whole number for a column of a table."""
    return told(count, lambda value: f"{value:.0f}", unknown)


def percent_text(percent: float | None, unknown: str = UNKNOWN) -> str:
    """Return a share such as `19 %`."""
    return told(percent, lambda value: f"{value:.0f} %", unknown)


def ratio_text(ratio: float | None, unknown: str = "-") -> str:
    """Return a multiple such as `1.25`."""
    return told(ratio, lambda value: f"{value:.2f}", unknown)


def lost_text(outcome: Outcome, digits: int = 0) -> str:
    """Return what the guest lost, such as `19 % (15.2 vCPU s)`."""
    if outcome.work_lost_percent is None or outcome.work_lost_vcpu_s is None:
        return percent_text(outcome.work_lost_percent)
    return f"{outcome.work_lost_percent:.{digits}f} % ({outcome.work_lost_vcpu_s:.1f} vCPU s)"


def sent_text(outcome: Outcome) -> str:
    """Return what was sent, such as `1.41 GiB, 1.25 x the guest's memory`."""
    times = ratio_text(outcome.sent_per_memory, UNKNOWN)
    return told(outcome.sent_bytes, lambda size: f"{format_size(size)}, {times} x the guest's memory")
