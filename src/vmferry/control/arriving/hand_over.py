"""Bounds how long the other side may hold a guest that QEMU has stopped to hand it over.

A peer that takes everything and says nothing would hold it for ever. It is cancelled, and the guest runs on, only where
the destination cannot have taken it over; else there might be two of them.
"""

from vmferry.client.monitor import Monitor
from vmferry.control.arriving.destination import WAITING, Destination
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.run_states import FINISHING, run_state
from vmferry.control.host.return_path import returned_bytes
from vmferry.errors import HostError, MigrationError
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_MS, NS_PER_S, format_duration

_LEAST_NS = 10 * NS_PER_S
_DOWNTIME_LIMITS = 2
"""By default a guest may be stopped for _LEAST_NS and this many downtime limits."""
_MOST_ON_THE_WAY_BYTES = 32 << 20
"""More than the buffers between the two hold. A peer that has taken this much has read the stream."""
_HANDING_OVER = frozenset({"active", "device"})


class HandOver:
    """Looks at one migration of a QEMU with every poll."""

    def __init__(
        self, monitor: Monitor, clock: Clock, uri: str, limit_ns: int | None, destination: Destination | None
    ) -> None:
        self._monitor = monitor
        self._clock = clock
        self._uri = uri
        self._limit_ns = limit_ns
        self._destination = destination
        self.has_begun = False
        """True once the guest was stopped for it."""
        self.is_certain = True
        """Whether the reason that was given last makes it certain, or only very likely, that there is no other copy."""
        self._since_ns: int | None = None
        self._allowed_ns = 0

    def observe(self, progress: Progress) -> str | None:
        """Return why to cancel, or None. Raises MigrationError if nobody knows where the guest is."""
        now_ns = self._clock.now_ns()
        self.has_begun = self.has_begun or progress.status == "device"
        if progress.status not in _HANDING_OVER or run_state(self._monitor) != FINISHING:
            self._since_ns = None
        elif self._since_ns is None:
            self.has_begun = True
            self._since_ns, self._allowed_ns = now_ns, self._allowed()
        elif now_ns - self._since_ns > self._allowed_ns:
            return self._why_not_there(progress, format_duration(now_ns - self._since_ns))
        return None

    def _allowed(self) -> int:
        downtime_limit_ms = int(self._monitor.execute("query-migrate-parameters")["downtime-limit"])
        default_ns = _LEAST_NS + _DOWNTIME_LIMITS * downtime_limit_ms * NS_PER_MS
        return default_ns if self._limit_ns is None else self._limit_ns

    def _returned_bytes(self) -> int | None:
        try:
            return returned_bytes(self._monitor.peer_pid, self._uri)
        except HostError:
            return None

    def _why_not_there(self, progress: Progress, stopped: str) -> str:
        """Return why the destination cannot have the guest."""
        if progress.remaining_bytes:
            return f"the guest stood still for {stopped}, and not all of its memory was taken"
        if self._destination and self._destination.is_held:
            return f"the guest stood still for {stopped}, and the destination does not let it run"
        if self._destination and self._destination.status() == WAITING:
            return f"the guest stood still for {stopped}, and the destination still waits for it"
        sent_bytes = progress.sent_bytes or 0
        if sent_bytes > _MOST_ON_THE_WAY_BYTES and self._returned_bytes() == 0:
            self.is_certain = False  # something on the way may hold its words back, and nothing else
            return f"the guest stood still for {stopped}, and the other side never said a word: it is taken for no VM"
        raise MigrationError(
            f"the guest was sent whole {stopped} ago, and the destination does not say whether it runs there, so it "
            "stays stopped here. Look there; if it does not run, end the destination, and migrate_cancel lets it run on"
        )
