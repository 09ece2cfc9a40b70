"""Trace events: one line of text, under a name, for entries of the journal (`docs/devel/tracing` in QEMU).

Nothing is instrumented twice: each trace event is a way to print an event that the journal records
anyway, so what is off costs nothing. Names and texts are QEMU's and the patch series' where they have them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from vmferry.convergence.watcher import BackgroundSync
from vmferry.migration.events import (
    BandwidthWindow,
    Decided,
    Ended,
    Event,
    Started,
    StatusChanged,
    SwitchoverBegan,
    Synced,
)
from vmferry.migration.status import MigrationStatus
from vmferry.units import NS_PER_MS


@dataclass(frozen=True)
class TraceEvent:
    """A name, what it tells of, and how it prints one kind of event of the journal."""

    name: str
    kind: type
    help: str
    text: Callable[[Any], str] = lambda event: ""
    when: Callable[[Any], bool] = lambda event: True


class _WatcherStarted:
    """Background syncs can be due from now on. The watcher is no thread here, so the journal does not tell."""


class _WatcherEnded:
    """No background sync can be due any more."""


def _transferred(window: BandwidthWindow) -> str:
    duration_ms = window.duration_ns // NS_PER_MS
    return (
        f"transferred {window.sent_bytes} time_spent {duration_ms} bandwidth {window.sent_bytes // duration_ms} "
        f"max_size {window.threshold_bytes}"
    )


def _ended(end: Ended) -> str:
    return (
        f"status {end.status} total_time {(end.total_time_ns or 0) // NS_PER_MS} ms downtime "
        f"{(end.downtime_ns or 0) // NS_PER_MS} ms transferred {end.sent_bytes} {end.error}"
    ).rstrip()


def _has_watcher(start: Started) -> bool:
    return start.auto_converge and start.parameters.get("background-sync") != BackgroundSync.OFF


TRACE_EVENTS = (
    TraceEvent(
        "cpu_throttle_set",
        Decided,
        "the throttle changed",
        lambda decision: f"set guest CPU throttled by {decision.throttle_percent}%",
        lambda decision: decision.throttle_percent != decision.old_throttle_percent,
    ),
    TraceEvent(
        "migrate_end",
        Ended,
        "a migration is over",
        _ended,
    ),
    TraceEvent(
        "migrate_set_state",
        StatusChanged,
        "the status changed",
        lambda change: f"new state {change.new}",
    ),
    TraceEvent(
        "migrate_start",
        Started,
        "a migration was accepted",
        lambda start: f"pages {start.page_count} vcpus {start.vcpu_count}",
    ),
    TraceEvent(
        "migrate_transferred",
        BandwidthWindow,
        "bandwidth window (bytes, ms, bytes/ms)",
        _transferred,
    ),
    TraceEvent(
        "migration_background_sync",
        Synced,
        "a background sync was made",
        lambda sync: f"dirty_sync_count {sync.dirty_sync_count} iteration_count {sync.iteration_count}",
        lambda sync: sync.kind == "background",
    ),
    TraceEvent(
        "migration_background_sync_watcher_end",
        _WatcherEnded,
        "looking for long iterations ended",
    ),
    TraceEvent(
        "migration_background_sync_watcher_start",
        _WatcherStarted,
        "looking for long iterations began",
    ),
    TraceEvent(
        "migration_bitmap_sync_end",
        Synced,
        "any dirty sync was made",
        lambda sync: f"dirty_pages {sync.newly_dirty_pages}",
    ),
    TraceEvent(
        "migration_decision",
        Decided,
        "a sync was evaluated",
        lambda decision: decision.reason,
    ),
    TraceEvent(
        "migration_dirty_ratio_high",
        Decided,
        "the dirty ratio stayed high",
        lambda decision: (
            f"current {decision.figures['dirty-ratio-percent']:.0f} "
            f"previous {decision.figures['previous-dirty-ratio-percent']:.0f}"
        ),
        lambda decision: bool(decision.figures.get("dirty-ratio-high")),
    ),
    TraceEvent(
        "migration_iteration",
        Synced,
        "an iteration began",
        lambda sync: f"iteration_count {sync.iteration_count} remaining_pages {sync.remaining_pages}",
        lambda sync: sync.kind == "iteration",
    ),
    TraceEvent(
        "migration_switchover",
        SwitchoverBegan,
        "the rest fits the downtime (bytes)",
        lambda switchover: f"remaining {switchover.remaining_bytes} max_size {switchover.threshold_bytes}",
    ),
    TraceEvent(
        "migration_throttle",
        Decided,
        "the guest is slowed further",
        when=lambda decision: decision.throttle_percent > decision.old_throttle_percent,
    ),
)
"""Every trace event, in the order of their names."""


def matching_events(pattern: str) -> list[str]:
    """Return the names that a pattern with `*` and `?` matches."""
    return [trace.name for trace in TRACE_EVENTS if fnmatchcase(trace.name, pattern)]


class Tracer:
    """A journal that hands the lines of the events that are switched on to `write`, and drops the others."""

    def __init__(self, write: Callable[[str], None], enabled: Iterable[str] = ()) -> None:
        self.enabled = set(enabled)
        """The names of the events that are on; they may change at any time."""
        self._write = write
        self._has_watcher = False

    def record(self, _time_ns: int, event: Event) -> None:
        """Print the event, if it is wanted."""
        for happening in self._happenings(event):
            for trace in TRACE_EVENTS:
                if trace.name in self.enabled and isinstance(happening, trace.kind) and trace.when(happening):
                    self._write(f"{trace.name} {trace.text(happening)}".rstrip())

    def _happenings(self, event: Event) -> Iterator[object]:
        yield event
        if isinstance(event, Started):
            self._has_watcher = _has_watcher(event)
        elif isinstance(event, StatusChanged) and self._has_watcher:
            if event.new is MigrationStatus.ACTIVE:
                yield _WatcherStarted()
            elif event.old is MigrationStatus.ACTIVE:
                yield _WatcherEnded()
