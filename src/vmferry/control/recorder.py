"""Makes a journal of a migration that is watched from outside, in the events of our own engine.

What is dirtied is worked out from what QEMU counts: of the pages that are left to send, those that were left before and
have not been sent meanwhile are not new.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from vmferry.control.asking.progress import NOTHING_SEEN, Progress
from vmferry.control.asking.result import Result
from vmferry.control.asking.sensors import DirtyRate
from vmferry.convergence.actions import Action, SetDowntimeLimit, Throttle
from vmferry.migration.events import (
    Acted,
    BandwidthWindow,
    Decided,
    Ended,
    Event,
    Lost,
    Measured,
    Ordered,
    RecordedBy,
    Shadowed,
    Started,
    StatusChanged,
    SwitchoverBegan,
    Synced,
    ThrottleSeen,
)
from vmferry.migration.ports import Journal
from vmferry.migration.status import MigrationStatus
from vmferry.units import NS_PER_MS, NS_PER_S, PAGE_SIZE_BYTES

_LATE_NS = 2 * NS_PER_S
"""Whoever begins to look on later than this after the beginning may have missed something: QEMU slows no guest before
it was found to dirty too much twice, and it looks once per second (`ram.c`: `migration_trigger_throttle`)."""
_WINDOWS_PER_S = 10
_SYNCS = 1000
"""How many syncs are remembered for the next measurement."""
_KNOWN_STATES = frozenset(MigrationStatus)


@dataclass(frozen=True)
class Evaluation:
    """One decision on the throttle."""

    throttle: Throttle
    old_percent: int
    measured: DirtyRate | None = None
    """What our measurement found; None if it was decided on what QEMU itself told, or on nothing."""
    takes_time: bool = True
    """As in `Decided`."""


class Recorder:
    """Turns one poll after the other into events; `now_ns` is the clock. What is not seen from outside is None."""

    def __init__(self, journal: Journal, now_ns: Callable[[], int]) -> None:
        self._journal = journal
        self._now_ns = now_ns
        self._last = NOTHING_SEEN
        self._last_ns = self._start_ns = self._recorded_ns = now_ns()
        self._downtime_limit_ms = self._burst_bytes = 0
        self._pending: list[tuple[int, Event]] = []
        """What happened since the poll before the last one."""
        self._throttle_percent = 0
        self._syncs: deque[tuple[int, int]] = deque(maxlen=_SYNCS)
        """When the syncs since the last measurement were seen, and how many at once."""

    def start(
        self,
        total_bytes: int,
        vcpu_count: int,
        auto_converge: bool,
        parameters: dict[str, object],
        recorded_by: RecordedBy,
        policy_digest: str | None = None,
        ordered: Ordered | None = None,
    ) -> None:
        """Record that the migration was begun, and what was ordered."""
        self._downtime_limit_ms = _number(parameters.get("downtime-limit"))
        self._burst_bytes = _number(parameters.get("max-bandwidth")) // _WINDOWS_PER_S
        started = Started(
            page_size=PAGE_SIZE_BYTES,
            page_count=total_bytes // PAGE_SIZE_BYTES,
            vcpu_count=vcpu_count,
            auto_converge=auto_converge,
            parameters=parameters,
            recorded_by=recorded_by,
            policy_digest=policy_digest,
        )
        self._record(self._now_ns(), started)
        if ordered:
            self._record(self._now_ns(), ordered)

    def poll(self, progress: Progress, stopped_ns: int | None = None) -> None:
        """Record what has changed since the last poll; `stopped_ns` is when the guest was stopped, if it was."""
        now_ns = self._now_ns()
        last, self._last = self._last, progress
        late = False
        if not last.running:
            began_ns = now_ns - (progress.elapsed_ms or 0) * NS_PER_MS
            late = began_ns < self._start_ns - _LATE_NS
            self._last_ns = min(self._last_ns, began_ns)
        if late:
            self._record(now_ns, Lost(count=None))
        self._flush(self._left_over_pages(last, progress))
        threshold_bytes = int((progress.memory_bytes_per_s or 0) * self._downtime_limit_ms / 1000)
        remaining_bytes = progress.remaining_bytes or 0
        if stopped_ns is not None:
            began = SwitchoverBegan(remaining_bytes=remaining_bytes, threshold_bytes=threshold_bytes)
            self._record(min(now_ns, max(self._recorded_ns, stopped_ns)), began)
        self._note_status(last.status, progress, now_ns)
        self._note_throttle(0 if progress.in_postcopy else progress.throttle_percent, now_ns)
        if sync_count := _more(last.dirty_sync_count, progress.dirty_sync_count):
            self._syncs.append((now_ns, sync_count))
            self._note_sync("iteration" if progress.status == "active" else "last", last, threshold_bytes, now_ns)
        sent_bytes = _more(last.sent_bytes, progress.sent_bytes)
        if sent_bytes and not late:
            window = BandwidthWindow(
                duration_ns=max(1, now_ns - self._last_ns),
                sent_bytes=sent_bytes,
                remaining_bytes=remaining_bytes,
                throttle_percent=self._throttle_percent,
                threshold_bytes=threshold_bytes,
                saved_bytes=max(0, progress.saved_bytes - last.saved_bytes),
            )
            self._record(now_ns, window)
        self._last_ns = now_ns

    def evaluated(self, evaluation: Evaluation) -> None:
        """Record a measurement and what was made of it; the syncs that begin iterations are seen by `poll`."""
        now_ns, found = self._now_ns(), evaluation.measured
        if found:
            pages = round(found.dirty_bytes_per_s * found.window_ns / NS_PER_S) // PAGE_SIZE_BYTES
            syncs = sum(count for ns, count in self._syncs if ns > now_ns - _period_ns(evaluation))
            self._syncs.clear()
            measured = Measured(window_ns=found.window_ns, dirty_pages=pages, sync_count=syncs, mode=found.mode)
            self._record(now_ns, measured)
        self._record(now_ns, Decided.of(evaluation.throttle, evaluation.old_percent, takes_time=evaluation.takes_time))
        self._throttle_percent = evaluation.throttle.percent

    def acted(self, action: Action) -> None:
        """Record that something else was done than to slow the guest."""
        self._record(self._now_ns(), acted(action))

    def shadowed(self, event: Shadowed) -> None:
        """Record what somebody who only looks on would have done."""
        self._record(self._now_ns(), event)

    def end(self, result: Result) -> None:
        """Record the last state and the figures of the whole course."""
        self.poll(result.last)
        self._record(self._now_ns(), ended(result))
        self._flush(0)

    def _record(self, now_ns: int, event: Event) -> None:
        self._recorded_ns = now_ns
        self._pending.append((now_ns, event))

    def _flush(self, left_over_pages: int) -> None:
        """Write what happened up to the last poll. A sync that was going on then has found some more pages since."""
        for ns, event in self._pending:
            if isinstance(event, Synced) and event.newly_dirty_pages is not None:
                event = msgspec.structs.replace(event, newly_dirty_pages=event.newly_dirty_pages + left_over_pages)
            self._journal.record(ns, event)
        self._pending.clear()

    def _left_over_pages(self, last: Progress, progress: Progress) -> int:
        """Return what a sync has found since the last poll saw it begin: QEMU counts it before it looks."""
        if last.dirty_sync_count != progress.dirty_sync_count:
            return 0
        return self._newly_dirty_pages(last, progress) or 0

    def _note_status(self, old: str, progress: Progress, now_ns: int) -> None:
        new = progress.status
        if new != old and {new, old} <= _KNOWN_STATES:
            changed = StatusChanged(old=MigrationStatus(old), new=MigrationStatus(new), reason=progress.error or "")
            self._record(now_ns, changed)

    def _note_throttle(self, percent: int | None, now_ns: int) -> None:
        if percent is not None and percent != self._throttle_percent:
            self._throttle_percent = percent
            self._record(now_ns, ThrottleSeen(throttle_percent=percent))

    def _note_sync(self, kind: str, last: Progress, threshold_bytes: int, now_ns: int) -> None:
        progress = self._last
        synced = Synced(
            kind=kind,
            dirty_sync_count=progress.dirty_sync_count or 0,
            iteration_count=progress.iteration_count or 0,
            newly_dirty_pages=self._newly_dirty_pages(last, progress),
            remaining_pages=(progress.remaining_bytes or 0) // PAGE_SIZE_BYTES,
            duration_ns=None,
            zero_pages=progress.zero_pages,
            waiting_pages=self._waiting_pages(last, progress, threshold_bytes),
        )
        self._record(now_ns, synced)

    def _newly_dirty_pages(self, last: Progress, progress: Progress) -> int | None:
        """Return how many pages came to those left to send between two polls; None if the monitor tells too little."""
        if last.remaining_bytes is None or last.sent_pages is None or not last.dirty_sync_count:
            return None
        if progress.remaining_bytes is None or progress.sent_pages is None or progress.in_postcopy:
            return None
        left_bytes = progress.remaining_bytes - last.remaining_bytes
        return max(0, left_bytes // PAGE_SIZE_BYTES + progress.sent_pages - last.sent_pages)

    def _waiting_pages(self, last: Progress, progress: Progress, threshold_bytes: int) -> int | None:
        """Return how many pages were left to send when a sync between two polls was made.

        QEMU sends what `max-bandwidth` allows for 100 ms, and syncs when it finds the rest below the threshold
        (`migration.c`: `migration_iteration_run`).
        """
        if last.remaining_bytes is None or last.sent_pages is None or progress.sent_pages is None:
            return None
        left_bytes, burst_bytes = last.remaining_bytes, max(1, self._burst_bytes)
        sent_bytes = (progress.sent_pages - last.sent_pages) * PAGE_SIZE_BYTES
        bursts = max(0, -(-(left_bytes - threshold_bytes) // burst_bytes))
        return max(0, left_bytes - min(sent_bytes, bursts * burst_bytes)) // PAGE_SIZE_BYTES


def _period_ns(evaluation: Evaluation) -> int:
    return evaluation.throttle.period.duration_ns if evaluation.throttle.period else 0


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _more(last: int | None, now: int | None) -> int:
    return max(0, (now or 0) - (last or 0))


def acted(action: Action) -> Acted:
    """Return the event that tells of an action."""
    limit_ns = action.limit_ns if isinstance(action, SetDowntimeLimit) else None
    return Acted(what=type(action).__name__, reason=action.reason, downtime_limit_ns=limit_ns)


def ended(result: Result) -> Ended:
    """Return the event that tells how a migration ended, as it was seen from outside."""
    progress = result.last
    status = progress.status if progress.status in _KNOWN_STATES else "failed"
    return Ended(
        status=MigrationStatus(status),
        total_time_ns=_ns(progress.elapsed_ms),
        downtime_ns=_ns(progress.downtime_ms),
        downtime_parts_ns={name: round(ms * NS_PER_MS) for name, ms in (progress.downtime_parts_ms or {}).items()},
        sent_bytes=progress.sent_bytes,
        iteration_count=progress.iteration_count,
        dirty_sync_count=progress.dirty_sync_count,
        max_throttle_percent=result.max_throttle_percent,
        error=progress.error or "",
        policy_broken=result.policy_broken,
    )


def _ns(time_ms: int | None) -> int | None:
    return None if time_ms is None else time_ms * NS_PER_MS
