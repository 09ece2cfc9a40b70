"""Makes dirty syncs and acts on what they show: the dirty rate, and the throttle if auto-converge is on.

A sync is evaluated if the evaluation before it is long enough ago; otherwise its pages only count
into the running period (QEMU `migration_bitmap_sync`).
"""

from collections.abc import Callable

from vmferry.convergence.background_sync import BackgroundSync, IterationView, make_watcher
from vmferry.convergence.link import LinkWatch, decide_without_silence
from vmferry.convergence.policy import make_policy
from vmferry.convergence.sample import SyncSample
from vmferry.migration.events import Decided, Synced
from vmferry.migration.ports import Channel, Clock, Guest, Journal
from vmferry.migration.ram import RamState
from vmferry.migration.stats import Counters, Period
from vmferry.settings.parameters import MigrationParameters

_NS_PER_MS = 1_000_000


class DirtySync:
    """The syncs of one migration, from the first, which it makes when it is created."""

    def __init__(
        self,
        guest: Guest,
        channel: Channel,
        clock: Clock,
        journal: Journal,
        counters: Counters,
        link: LinkWatch,
        parameters: Callable[[], MigrationParameters],
        *,
        auto_converge: bool,
    ) -> None:
        self.throttle_percent = 0
        self._guest = guest
        self._channel = channel
        self._clock = clock
        self._journal = journal
        self._counters = counters
        self._link = link
        self._parameters = parameters
        start = parameters()
        mode = start.background_sync if auto_converge else BackgroundSync.OFF
        self.ram = RamState(guest.layout.page_count, mode)
        self._policy = make_policy(start.convergence_policy) if auto_converge else None
        self._watcher = make_watcher(mode, start.watch_times(), clock.now_ns())
        self._period = Period(clock.now_ns(), channel.sent_bytes, link.total_still_ns)
        self.iteration()

    @property
    def remaining_bytes(self) -> int:
        """Size of the pages that are known to be still to be sent."""
        return self.ram.remaining_pages * self._guest.layout.page_size

    def iteration(self) -> None:
        """Begin an iteration with a sync."""
        self._counters.iteration_count += 1
        self._sync("iteration", self.ram.iteration_sync)

    def background_if_due(self) -> None:
        """Make a background sync if the watcher calls for one."""
        view = IterationView(
            now_ns=self._clock.now_ns(),
            iteration_count=self._counters.iteration_count,
            dirty_sync_count=self._counters.dirty_sync_count,
            last_evaluation_ns=self._period.start_ns,
            throttle_percent=self.throttle_percent,
            maximum_throttle_percent=self._parameters().max_cpu_throttle,
        )
        if self._watcher.due(view):
            self._sync("background", self.ram.background_sync)

    def last(self) -> None:
        """Collect what the guest dirtied before it was stopped; nothing is decided any more."""
        self._count("last", self.ram.iteration_sync)

    def _sync(self, kind: str, sync: Callable[[Guest], int]) -> None:
        self._count(kind, sync)
        now_ns = self._clock.now_ns()
        if now_ns - self._period.start_ns > self._parameters().x_evaluation_period * _NS_PER_MS:
            self._evaluate(now_ns)

    def _count(self, kind: str, sync: Callable[[Guest], int]) -> None:
        start_ns = self._clock.now_ns()
        newly_dirty_pages = sync(self._guest)
        duration_ns = self._clock.now_ns() - start_ns
        self._link.pass_over(duration_ns)
        self._period.dirty_pages += newly_dirty_pages
        self._counters.dirty_sync_count += 1
        self._counters.dirty_bytes_last_sync = self.remaining_bytes
        event = Synced(
            kind=kind,
            dirty_sync_count=self._counters.dirty_sync_count,
            iteration_count=self._counters.iteration_count,
            newly_dirty_pages=newly_dirty_pages,
            remaining_pages=self.ram.remaining_pages,
            duration_ns=duration_ns,
            dirty_pages=self.ram.dirty_pages,
            zero_pages=self._counters.zero_pages,
        )
        self._journal.record(self._clock.now_ns(), event)

    def _evaluate(self, now_ns: int) -> None:
        sent_bytes = self._channel.sent_bytes
        sample = SyncSample(
            period_ns=now_ns - self._period.start_ns,
            dirty_bytes=self._period.dirty_pages * self._guest.layout.page_size,
            sent_bytes=sent_bytes - self._period.start_bytes,
            throttle_percent=self.throttle_percent,
        )
        if self._policy is not None:
            still_ns = self._link.still_since(self._period.start_still_ns, sample.period_ns)
            decision = decide_without_silence(self._policy, sample, still_ns, self._parameters().throttle_settings())
            self._set_throttle(decision.throttle_percent)
            self._journal.record(now_ns, Decided.of(sample, decision))
        self._counters.dirty_pages_rate = self._period.dirty_pages_per_s(now_ns)
        self._period = Period(now_ns, sent_bytes, self._link.total_still_ns)

    def _set_throttle(self, percent: int) -> None:
        if percent == self.throttle_percent:
            return
        self._guest.set_throttle(percent)
        self.throttle_percent = percent
        self._counters.max_throttle_percent = max(self._counters.max_throttle_percent, percent)
