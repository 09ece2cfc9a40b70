"""How fast guest memory moves, whatever it takes on the wire: a page that was compressed, or of which only what changed
was sent, counts in full.

What remains and what the guest dirties are sizes of guest memory, so this is what they are compared with. Where pages
go as they are, it is what the link carries.
"""

from collections import deque

from vmferry.migration.delta import Deltas
from vmferry.migration.ports import Channel, Clock
from vmferry.migration.stats import Window
from vmferry.units import NS_PER_S


class MovedMemory:
    """How much guest memory one migration has moved, from its first page on, and how fast."""

    def __init__(self, channel: Channel, clock: Clock, deltas: Deltas | None) -> None:
        self.bytes_per_s = 0.0
        """At the end of the latest bandwidth window; 0 before the first one."""
        self.wire_share = 1.0
        """What of a byte of guest memory was on the wire in that window, 1 at most."""
        self._channel, self._clock, self._deltas = channel, clock, deltas
        self._saved_before = self.saved_bytes
        """Up to the end of that window."""
        self._began = deque([(clock.now_ns(), self.total_bytes)], maxlen=2)
        """When the running iteration began and the one before, and what had moved by then."""

    @property
    def saved_bytes(self) -> int:
        """By how much pages were smaller on the wire than in memory."""
        compression = self._channel.compression
        compressed = compression.plain_bytes - compression.compressed_bytes if compression else 0
        return compressed + (self._deltas.saved_bytes if self._deltas else 0)

    @property
    def total_bytes(self) -> int:
        """What would have been sent if pages had gone as they are."""
        return self._channel.sent_bytes + self.saved_bytes

    def begin_iteration(self) -> None:
        """Take note that an iteration begins."""
        self._began.append((self._clock.now_ns(), self.total_bytes))

    def arrived(self, bytes_per_s: float) -> None:
        """Take note that all that was sent is at the other side; windows told `bytes_per_s` before that was waited for.

        It goes no faster than what the running iteration has sent took to arrive.
        """
        since_ns, since_bytes = self._began[-1]
        passed_ns = max(1, self._clock.now_ns() - since_ns)
        arrived_bytes_per_s = (self.total_bytes - since_bytes) * NS_PER_S / passed_ns
        self.bytes_per_s = min(bytes_per_s, arrived_bytes_per_s) if bytes_per_s else arrived_bytes_per_s

    def close_window(self, window: Window) -> int:
        """Work out the speed when a bandwidth window ends, and return how much was saved in it.

        How much is saved changes from page to page, so where something is, what is left is not taken to go faster than
        all that went since the iteration before this one began.
        """
        saved_bytes = self.saved_bytes - self._saved_before
        self._saved_before += saved_bytes
        self.bytes_per_s = (window.sent_bytes + saved_bytes) * NS_PER_S / window.duration_ns
        if self._saved_before:
            since_ns, since_bytes = self._began[0]
            passed_ns = max(1, self._clock.now_ns() - since_ns)
            self.bytes_per_s = min(self.bytes_per_s, (self.total_bytes - since_bytes) * NS_PER_S / passed_ns)
        if self.bytes_per_s:
            self.wire_share = min(1.0, window.sent_bytes * NS_PER_S / window.duration_ns / self.bytes_per_s)
        return saved_bytes
