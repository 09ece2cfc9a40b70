"""The pre-copy loop: send memory while the guest runs until the rest fits the allowed downtime.

Sources: QEMU `migration.c` (`migration_iteration_run`, `migration_rate_limit`), the patch series for background syncs.
"""

from collections.abc import Callable

from vmferry.convergence.ledger import Ledger
from vmferry.convergence.link import LinkWatch
from vmferry.errors import ChannelError
from vmferry.memory.ranges import PageRuns
from vmferry.migration.body import EngineBody
from vmferry.migration.events import BandwidthWindow, CompressionChosen, LinkStalled
from vmferry.migration.moved import MovedMemory
from vmferry.migration.outgoing import Outgoing
from vmferry.migration.ports import MAX_WAIT_NS
from vmferry.migration.stats import WINDOW_NS, BandwidthMeter, Counters
from vmferry.units import NS_PER_MS, NS_PER_S
from vmferry.wire.messages import Pages

_MIN_BYTES_FOR_ESTIMATE = 10_000
"""A window in which less was sent says nothing about the bandwidth. The value is QEMU's."""
_UNSENT_WAIT_NS = 5 * NS_PER_MS
"""What waits to be sent may turn out smaller than it was counted."""


class Precopy:
    """Sends the memory of one guest over an open channel. It is made once dirty logging is on."""

    def __init__(self, outgoing: Outgoing, ledger: Ledger) -> None:
        """`ledger` is told by the journal what throttles take."""
        self._outgoing = outgoing
        self._channel, self._clock = outgoing.channel, outgoing.clock
        self._page_size = outgoing.guest.layout.page_size
        self.counters = Counters()
        self.meter = BandwidthMeter(self._clock.now_ns(), self._channel.sent_bytes)
        self.moved = MovedMemory(self._channel, self._clock, outgoing.deltas)
        self.link = LinkWatch(outgoing.parameters().link_patience_ns)
        self.link.look(self._clock.now_ns(), self._channel.sent_bytes, outgoing.guest.layout.size_bytes)
        self._told_still_ns = 0
        self._told_compression: bool | None = None
        self._ordered_syncs = -1
        """After how many syncs the last barrier was sent."""
        self.body = EngineBody(outgoing, self.counters, self.moved, self.link, ledger)
        self.sync = self.body.sync
        self.expected_downtime_ms = outgoing.parameters().downtime_limit

    def run(self, spare_ns: int = 0) -> None:
        """Send until the rest fits the downtime; what the guest goes on dirtying is then still to be sent.

        If sending a little more may leave `spare_ns` of the downtime limit for something else, that is tried, once.
        """
        self._send_until_rest_fits()
        beside_bytes = self.body.threshold_bytes - int(self.body.switchover_bytes_per_s * spare_ns / NS_PER_S)
        if spare_ns and 0 < beside_bytes < self.sync.remaining_bytes:
            self._send_more(self.sync.remaining_bytes - beside_bytes // 2)  # the guest dirties some meanwhile
            self._send_until_rest_fits()
        self.counters.precopy_bytes = self._channel.sent_bytes

    def send_rest(self, while_blocked: Callable[[], None]) -> None:
        """Send all that is known to be dirty of the stopped guest, as fast as the link goes."""
        while self.sync.ram.remaining_pages:
            while_blocked()
            self.send_batch(while_blocked, self._channel.max_batch_pages, final=True)

    def send_batch(self, while_blocked: Callable[[], None], max_pages: int, *, final: bool = False) -> None:
        """Send up to `max_pages` of the pages that are to be sent."""
        self._keep_order(while_blocked)
        deltas = self._outgoing.deltas
        pages = self.sync.ram.take(min(max_pages, deltas.max_batch_pages) if deltas else max_pages)
        data, zero = pages.split(self._outgoing.guest.zero_pages(pages))
        for message in self._messages(data, zero, final):
            self._channel.send(message, while_blocked)
            self.counters.count(message)

    def _messages(self, data: PageRuns, zero: PageRuns, final: bool) -> list[Pages]:
        deltas = self._outgoing.deltas
        if deltas is None:
            return [Pages(data, zero, final)]
        return deltas.messages(data, zero, self.counters.iteration_count, final=final)

    def rest_ns(self) -> int:
        """Return how long it takes to send what is known to be left."""
        bytes_per_s = self.body.switchover_bytes_per_s
        return int(self.sync.remaining_bytes * NS_PER_S / bytes_per_s) if bytes_per_s else 0

    def _send_until_rest_fits(self) -> None:
        while not self._rest_fits_downtime():
            self._send_some()

    def _send_more(self, size_bytes: int) -> None:
        """Send this much of what is left. The guest may go on dirtying, and background syncs may find that out."""
        enough_pages = self.counters.pages + size_bytes // self._page_size
        while self.sync.ram.remaining_pages and self.counters.pages < enough_pages:
            self._send_some()

    def _keep_order(self, while_blocked: Callable[[], None]) -> None:
        """Only a sync lets a page be sent again; its older content must not come last."""
        if self._ordered_syncs != self.counters.dirty_sync_count:
            self._ordered_syncs = self.counters.dirty_sync_count
            self._channel.barrier(while_blocked)

    def _send_some(self) -> None:
        self.send_batch(self._tick, self._batch_pages())
        self._tick()
        self._wait_for_rate_limit()

    def _rest_fits_downtime(self) -> bool:
        """Estimate; if the estimate fits, or nothing is left to send, make a sync to learn the truth."""
        if self.sync.remaining_bytes > (self.body.threshold_bytes if self._may_leave_some else 0):
            return False
        self._let_all_arrive()
        self.body.begin_iteration()
        return self.sync.remaining_bytes <= self.body.threshold_bytes

    def _let_all_arrive(self) -> None:
        """Wait until the buffers on the way are empty, which would hold up a stopped guest.

        What they have taken at once is no speed, nor is that nothing is sent meanwhile; the whole iteration tells it.
        """
        start_ns, bytes_per_s = self._clock.now_ns(), self.moved.bytes_per_s
        self._channel.flush(self._watch)
        if self._clock.now_ns() - start_ns >= WINDOW_NS:
            self._update_bandwidth()
            self.moved.arrived(bytes_per_s)

    @property
    def _may_leave_some(self) -> bool:
        """Whether it pays to leave a rest for the hand-over: a guest that stands still anyway dirties nothing more."""
        return self._outgoing.guest.running or self.body.switches_over

    def _batch_pages(self) -> int:
        """Return how many pages this bandwidth window still allows in one batch, at least one."""
        limit = self._outgoing.parameters().max_bandwidth
        if limit == 0:
            return self._channel.max_batch_pages
        return max(1, min(self._left_bytes(limit) // self._page_size, self._channel.max_batch_pages))

    def _wait_for_rate_limit(self) -> None:
        while limit := self._outgoing.parameters().max_bandwidth:
            if self._left_bytes(limit) > 0:
                return
            wait_ns = self.meter.window_end_ns() - self._clock.now_ns()
            longest_ns = _UNSENT_WAIT_NS if self._channel.unsent_bytes else MAX_WAIT_NS
            self._clock.sleep_ns(max(0, min(wait_ns, longest_ns)))
            self._tick()

    def _left_bytes(self, limit: int) -> int:
        """Return what may still be sent in this bandwidth window; what waits to be sent counts as sent."""
        return self.meter.left_bytes(self._channel.sent_bytes + self._channel.unsent_bytes, limit)

    def _tick(self) -> None:
        """Do what must happen regularly while the guest runs, also while the channel is blocked."""
        self._update_bandwidth()
        self._watch()

    def _watch(self) -> None:
        """Do what must happen regularly also while nothing may be sent."""
        self._outgoing.check_cancel()
        self._watch_link()
        self.body.look()

    def _update_bandwidth(self) -> None:
        now_ns = self._clock.now_ns()
        window = self.meter.update(now_ns, self._channel.sent_bytes)
        if window is None:
            return
        self._watch_compression()
        saved_bytes = self.moved.close_window(window)
        self.counters.close_window(window)
        if self.counters.dirty_pages_rate and window.sent_bytes > _MIN_BYTES_FOR_ESTIMATE:
            seconds = self.counters.dirty_bytes_last_sync / self.body.switchover_bytes_per_s
            self.expected_downtime_ms = round(seconds * 1000)
        event = BandwidthWindow(
            duration_ns=window.duration_ns,
            sent_bytes=window.sent_bytes,
            remaining_bytes=self.sync.remaining_bytes,
            throttle_percent=self.body.throttle_percent,
            threshold_bytes=self.body.threshold_bytes,
            saved_bytes=saved_bytes,
        )
        self._outgoing.journal.record(now_ns, event)

    def _watch_compression(self) -> None:
        """Record what measuring whether compressing pays has come to."""
        figures = self._channel.compression
        if figures and figures.choices and figures.on is not self._told_compression:
            self._told_compression = figures.on
            event = CompressionChosen(
                on=figures.on,
                plain_bytes_per_s=figures.plain_bytes_per_s,
                compressed_bytes_per_s=figures.compressed_bytes_per_s,
                ratio=figures.ratio,
            )
            self._outgoing.record(event)

    def _watch_link(self) -> None:
        """Record when the link comes to stand still and when it moves again, and give it up after a time."""
        now_ns, parameters = self._clock.now_ns(), self._outgoing.parameters()
        left_bytes = self.sync.remaining_bytes + self._channel.unsent_bytes
        self.link.look(now_ns, self._channel.sent_bytes, left_bytes, parameters.max_bandwidth)
        still_ns = self.link.still_ns
        if bool(still_ns) != bool(self._told_still_ns):
            event = LinkStalled(duration_ns=still_ns or self._told_still_ns, over=not still_ns)
            self._outgoing.journal.record(now_ns, event)
        self._told_still_ns = still_ns
        if 0 < parameters.stall_timeout_ns <= still_ns:
            raise ChannelError(f"the link has stood still for {still_ns / NS_PER_S:.0f} s (stall-timeout)")
