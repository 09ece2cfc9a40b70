"""The figures of a migration, worked out in this one place for terminal, page, picture and JSON, and how they are told.

Milliseconds are whole ones, cut off as QEMU does. None is what nobody knows.
"""

import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from vmferry.report.series import RunSeries
from vmferry.units import format_duration, format_size

UNKNOWN = "unknown"
_NS_PER_MS = 1_000_000
_MS_PER_S = 1000
_T = TypeVar("_T", int, float)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What came out of one migration."""

    status: str
    error: str
    total_time_ms: int | None
    downtime_ms: int | None
    downtime_parts_ms: dict[str, float]
    iteration_count: int | None
    dirty_sync_count: int | None
    max_throttle_percent: int | None
    sent_bytes: int | None
    memory_bytes: int
    vcpu_count: int
    sent_per_memory: float | None
    """Bytes sent as a multiple of the guest's memory."""
    work_lost_percent: float | None
    work_lost_vcpu_s: float | None

    @classmethod
    def of(cls, run: RunSeries) -> "Figures":
        """Work them out of a migration's course."""
        ended = run.ended
        return cls(
            status=ended.status.value,
            error=ended.error,
            total_time_ms=_ms(ended.total_time_ns),
            downtime_ms=_ms(ended.downtime_ns),
            downtime_parts_ms={name: ns / _NS_PER_MS for name, ns in ended.downtime_parts_ns.items()},
            iteration_count=ended.iteration_count,
            dirty_sync_count=ended.dirty_sync_count,
            max_throttle_percent=ended.max_throttle_percent,
            sent_bytes=ended.sent_bytes,
            memory_bytes=run.memory_bytes,
            vcpu_count=run.started.vcpu_count,
            sent_per_memory=run.sent_per_memory,
            work_lost_percent=run.work_lost_percent,
            work_lost_vcpu_s=run.work_lost_vcpu_s,
        )

    @property
    def completed(self) -> bool:
        """True if the guest was handed over."""
        return self.status == "completed"


def _ms(time_ns: int | None) -> int | None:
    return None if time_ns is None else time_ns // _NS_PER_MS


def median(values: Iterable[float | None]) -> float | None:
    """Return the median of what is known, between the middle two of an even number; None if nothing is."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def told(value: _T | None, text: Callable[[_T], str], unknown: str = UNKNOWN) -> str:
    """Return the text of a figure, or that it is not known."""
    return unknown if value is None else text(value)


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


def lost_text(figures: Figures, digits: int = 0) -> str:
    """Return what the guest lost, such as `19 % (15.2 vCPU s)`."""
    if figures.work_lost_percent is None or figures.work_lost_vcpu_s is None:
        return percent_text(figures.work_lost_percent)
    return f"{figures.work_lost_percent:.{digits}f} % ({figures.work_lost_vcpu_s:.1f} vCPU s)"


def sent_text(figures: Figures) -> str:
    """Return what was sent, such as `1.41 GiB, 1.25 x the guest's memory`."""
    times = ratio_text(figures.sent_per_memory, UNKNOWN)
    return told(figures.sent_bytes, lambda size: f"{format_size(size)}, {times} x the guest's memory")
