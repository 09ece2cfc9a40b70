"""Makes a journal of a migration that is watched from outside, in the events of our own engine."""

from collections.abc import Callable

from vmferry.control.drive import Progress, Result
from vmferry.control.steer import Evaluation
from vmferry.migration.events import BandwidthWindow, Decided, Ended, Started, StatusChanged, SwitchoverBegan, Synced
from vmferry.migration.ports import Journal
from vmferry.migration.status import MigrationStatus

_NS_PER_MS = 1_000_000
_KNOWN_STATES = frozenset(MigrationStatus)


class Recorder:
    """Turns one poll after the other into events; `now_ns` is the clock.

    What is not seen from outside is 0: newly dirty pages of an iteration, how long a sync took, parts of the downtime.
    """

    def __init__(self, journal: Journal, now_ns: Callable[[], int], page_size: int = 4096) -> None:
        self._journal = journal
        self._now_ns = now_ns
        self._page_size = page_size
        self._last = Progress.from_qmp({})
        self._last_ns = now_ns()
        self._downtime_limit_ms = 0

    def start(self, total_bytes: int, vcpu_count: int, auto_converge: bool, parameters: dict[str, object]) -> None:
        """Record that the migration was begun."""
        limit = parameters.get("downtime-limit", 0)
        self._downtime_limit_ms = limit if isinstance(limit, int) else 0
        started = Started(
            page_size=self._page_size,
            page_count=total_bytes // self._page_size,
            vcpu_count=vcpu_count,
            auto_converge=auto_converge,
            parameters=parameters,
        )
        self._journal.record(self._now_ns(), started)

    def poll(self, progress: Progress, *, stopped: bool = False) -> None:
        """Record what has changed since the last poll; `stopped` if the guest was stopped meanwhile."""
        now_ns = self._now_ns()
        last, self._last = self._last, progress
        if progress.status != last.status and {progress.status, last.status} <= _KNOWN_STATES:
            changed = StatusChanged(
                old=MigrationStatus(last.status), new=MigrationStatus(progress.status), reason=progress.error or ""
            )
            self._journal.record(now_ns, changed)
        if progress.dirty_sync_count > last.dirty_sync_count:
            self._synced("iteration", now_ns, 0)
        sent_bytes = progress.sent_bytes - last.sent_bytes
        threshold_bytes = int(progress.bandwidth_bytes_per_s * self._downtime_limit_ms / 1000)
        if sent_bytes > 0:
            window = BandwidthWindow(
                duration_ns=max(1, now_ns - self._last_ns),
                sent_bytes=sent_bytes,
                remaining_bytes=progress.remaining_bytes,
                throttle_percent=progress.throttle_percent,
                threshold_bytes=threshold_bytes,
            )
            self._journal.record(now_ns, window)
        if stopped:
            began = SwitchoverBegan(remaining_bytes=progress.remaining_bytes, threshold_bytes=threshold_bytes)
            self._journal.record(now_ns, began)
        self._last_ns = now_ns

    def evaluated(self, evaluation: Evaluation) -> None:
        """Record a measurement and what was made of it."""
        now_ns, sample = self._now_ns(), evaluation.sample
        if evaluation.kind == "background":  # those of iterations are seen by `poll`
            self._synced("background", now_ns, sample.dirty_bytes // self._page_size)
        self._journal.record(now_ns, Decided.of(sample, evaluation.decision))

    def end(self, result: Result) -> None:
        """Record the last state and the figures of the whole course."""
        progress = result.last
        self.poll(progress)
        status = progress.status if progress.status in _KNOWN_STATES else "failed"
        ended = Ended(
            status=MigrationStatus(status),
            total_time_ns=progress.elapsed_ms * _NS_PER_MS,
            downtime_ns=(progress.downtime_ms or 0) * _NS_PER_MS,
            downtime_parts_ns={},
            sent_bytes=progress.sent_bytes,
            iteration_count=progress.iteration_count,
            dirty_sync_count=progress.dirty_sync_count,
            max_throttle_percent=result.max_throttle_percent,
            error=progress.error or "",
        )
        self._journal.record(self._now_ns(), ended)

    def _synced(self, kind: str, now_ns: int, newly_dirty_pages: int) -> None:
        synced = Synced(
            kind=kind,
            dirty_sync_count=self._last.dirty_sync_count,
            iteration_count=self._last.iteration_count,
            newly_dirty_pages=newly_dirty_pages,
            remaining_pages=self._last.remaining_bytes // self._page_size,
            duration_ns=0,
        )
        self._journal.record(now_ns, synced)
