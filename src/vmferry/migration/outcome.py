"""What came out of a migration: every figure that anything tells of one is derived from its journal in this one place.

Milliseconds are whole ones, cut off as QEMU does. None is what nobody knows, never 0.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Self

import msgspec

from vmferry.bounds import Natural, Number
from vmferry.migration.events import (
    BandwidthWindow,
    Decided,
    Ended,
    Lost,
    Started,
    StatusChanged,
    Synced,
    ThrottleSeen,
)
from vmferry.migration.journal import Entry
from vmferry.migration.lost_work import LostWork
from vmferry.migration.status import MigrationStatus
from vmferry.units import MS_PER_S, NS_PER_MS, NS_PER_S, format_ms, format_size, told

_BEGAN_UNSEEN = Lost(count=None)
"""What a journal has that was begun when its migration had run for a while."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one migration."""

    status: str
    error: str = ""
    policy_broken: bool = False
    """True if it was given up because its policy is broken."""
    total_time_ms: Natural | None = None
    downtime_ms: Natural | None = None
    downtime_parts_ms: dict[str, Number] = {}
    iteration_count: Natural | None = None
    dirty_sync_count: Natural | None = None
    max_throttle_percent: Natural | None = None
    sent_bytes: Natural | None = None
    memory_bytes: Natural | None = None
    vcpu_count: Natural | None = None
    sent_per_memory: Number | None = None
    """Bytes sent as a multiple of the guest's memory."""
    work_lost_percent: Number | None = None
    """What the throttle kept the guest from doing, as a share of what it would have done, or what was counted in it."""
    work_lost_vcpu_s: Number | None = None
    """What the throttle kept the guest from doing, in seconds of one vCPU."""
    vcpu_work_lost_s: list[Number] | None = None
    """The same of each vCPU; empty where all were slowed alike."""

    @classmethod
    def of(cls, entries: Sequence[Entry], /, **more: Any) -> Self:
        """Derive it from the journal of one migration, whose first entry is `started`; `more` is of a subclass."""
        started = entries[0].event
        assert isinstance(started, Started)
        ended, memory_bytes = end_of(entries), started.page_count * started.page_size
        return cls(
            status=ended.status.value,
            error=ended.error,
            policy_broken=ended.policy_broken,
            total_time_ms=_ms(ended.total_time_ns),
            downtime_ms=_ms(ended.downtime_ns),
            downtime_parts_ms={name: ns / NS_PER_MS for name, ns in ended.downtime_parts_ns.items()},
            iteration_count=ended.iteration_count,
            dirty_sync_count=ended.dirty_sync_count,
            max_throttle_percent=ended.max_throttle_percent,
            sent_bytes=ended.sent_bytes,
            memory_bytes=memory_bytes,
            vcpu_count=started.vcpu_count,
            sent_per_memory=_ratio(ended.sent_bytes, memory_bytes),
            **_lost_work(entries, ended.total_time_ns),
            **more,
        )

    def __str__(self) -> str:
        lost_vcpu_s = told(self.work_lost_vcpu_s, lambda vcpu_s: f", {vcpu_s:.1f} vCPU s", "")
        times = told(self.sent_per_memory, lambda ratio: f", {ratio:.2f} x the guest's memory", "")
        rows = {
            "status": self.status + (f": {self.error}" if self.error else ""),
            "total time": told(self.total_time_ms, format_ms),
            "downtime": told(self.downtime_ms, format_ms),
            "iterations": told(self.iteration_count, str),
            "dirty syncs": told(self.dirty_sync_count, str),
            "max throttle": told(self.max_throttle_percent, lambda percent: f"{percent} %"),
            "guest work lost": told(self.work_lost_percent, lambda percent: f"{percent:.1f} %{lost_vcpu_s}"),
            "of each vCPU": " ".join(f"{lost_s:.1f} s" for lost_s in self.vcpu_work_lost_s or ()),
            "sent": told(self.sent_bytes, lambda size: f"{format_size(size)}{times}"),
        }
        return "\n".join(f"{name:<16}{text}" for name, text in rows.items() if text)

    @property
    def completed(self) -> bool:
        """True if the guest was handed over."""
        return self.status == MigrationStatus.COMPLETED

    def counted(self, work_lost_percent: float | None) -> Self:
        """Return this with the share of its work that the guest was seen to lose, by who has counted what it did."""
        vcpu_s = None
        if work_lost_percent is not None and self.total_time_ms is not None and self.vcpu_count is not None:
            vcpu_s = self.vcpu_count * work_lost_percent / 100 * self.total_time_ms / MS_PER_S
        return msgspec.structs.replace(self, work_lost_percent=work_lost_percent, work_lost_vcpu_s=vcpu_s)


def end_of(entries: Sequence[Entry]) -> Ended:
    """Return how a migration ended; where that is not in its journal, how far it had come."""
    events = [entry.event for entry in entries]
    if isinstance(events[-1], Ended):
        return events[-1]
    gaps = any(isinstance(event, Lost) for event in events)
    syncs = [event for event in events if isinstance(event, Synced)]
    states = [event.new for event in events if isinstance(event, StatusChanged)]
    throttles = [event.throttle_percent for event in events if isinstance(event, Decided | ThrottleSeen)]
    unknown = None if gaps else 0
    last_ns = max(entry.time_ns for entry in entries)
    return Ended(
        status=states[-1] if states else MigrationStatus.SETUP,
        total_time_ns=None if _BEGAN_UNSEEN in events else max(0, last_ns - entries[0].time_ns),
        downtime_ns=None,
        downtime_parts_ns={},
        sent_bytes=None if gaps else sum(event.sent_bytes for event in events if isinstance(event, BandwidthWindow)),
        iteration_count=syncs[-1].iteration_count if syncs else unknown,
        dirty_sync_count=syncs[-1].dirty_sync_count if syncs else unknown,
        max_throttle_percent=None if gaps else max(throttles, default=0),
        error="the journal ends before the migration does",
    )


def _lost_work(entries: Iterable[Entry], total_ns: int | None) -> dict[str, Any]:
    """Return what the throttle took; nothing if part of the record is missing."""
    lost = LostWork()
    for entry in entries:
        lost.record(entry.time_ns, entry.event)
    if not lost.is_known or total_ns is None:
        return {}
    return {
        "work_lost_percent": lost.percent_of(total_ns),
        "work_lost_vcpu_s": lost.vcpu_ns / NS_PER_S,
        "vcpu_work_lost_s": [ns / NS_PER_S for ns in lost.vcpu_taken_ns],
    }


def _ms(time_ns: int | None) -> int | None:
    return None if time_ns is None else time_ns // NS_PER_MS


def _ratio(part: int | None, whole: int) -> float | None:
    return None if part is None or not whole else part / whole
