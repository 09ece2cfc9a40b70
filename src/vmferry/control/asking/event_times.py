"""When a VM's events happened, by our clock: an answer that QEMU delays, as during a hand-over, delays them, too."""

from vmferry.client.qmp_client import Event
from vmferry.units import NS_PER_S


class EventTimes:
    """Compares the clock by which a VM dates its events with ours.

    How far they are apart is not known. The event that was heard the soonest is taken to have been heard at once.
    """

    def __init__(self) -> None:
        self._apart_ns: int | None = None

    def of(self, event: Event, heard_ns: int) -> int:
        """Return when an event happened that was heard at that time of our clock, or a little later than it did."""
        dated_ns = round(event.time_s * NS_PER_S)
        apart_ns = heard_ns - dated_ns
        self._apart_ns = apart_ns if self._apart_ns is None else min(self._apart_ns, apart_ns)
        return dated_ns + self._apart_ns
