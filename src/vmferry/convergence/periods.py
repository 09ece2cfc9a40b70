"""Where periods and measurements begin and end, and what the guest dirtied in them.

A *period* is a time of which it is known how much the guest dirtied and how much was sent: what auto-converge judges.
What ends one depends on what the body finds:

- A dirty sync (`SyncSeen`) adds its newly dirty bytes to the running period. The first one that comes later than the
  evaluation period, 1 s, after the last evaluation ends it. So many syncs are judged together near the end of a
  migration, when passes take milliseconds.
- A rate that the VM tells by itself (`RateSeen`) ends it likewise, and is taken to hold for all of it.
- A measurement that was asked for (`RateMeasured`) is a period of its own, from the asking on.
"""

from dataclasses import dataclass

from vmferry.convergence.ledger import Ledger
from vmferry.convergence.link import LinkWatch
from vmferry.convergence.sensing import Period, RateMeasured, RateSeen, Sensed, SyncSeen
from vmferry.convergence.written import Written
from vmferry.units import NS_PER_S


@dataclass(frozen=True)
class _Mark:
    """A moment at which a period begins."""

    now_ns: int
    sent_bytes: int
    still_ns: int
    """How long the link had stood still by then."""
    taken_ns: int
    """How much time throttles had taken from each vCPU by then."""


class Periods:
    """The periods of one migration. `link` and `ledger` are kept up to date by others."""

    def __init__(self, link: LinkWatch, ledger: Ledger, start: Sensed) -> None:
        self._link = link
        self._ledger = ledger
        self._newly_dirty_bytes = 0
        self._vcpu_dirty_bytes: tuple[int, ...] | None = None
        self._evaluated = self._measuring = self._synced = self._mark(start)

    @property
    def evaluated_ns(self) -> int:
        """When the running period began."""
        return self._evaluated.now_ns

    def begin(self, sensed: Sensed) -> None:
        """Begin a period."""
        self._evaluated = self._mark(sensed)
        self._newly_dirty_bytes, self._vcpu_dirty_bytes = 0, None

    def measure(self, sensed: Sensed) -> None:
        """Begin a measurement."""
        self._measuring = self._mark(sensed)

    def ended(self, sensed: Sensed, evaluation_period_ns: int, throttle_percent: int) -> tuple[Period | None, int]:
        """Return the period that has ended, if one has, and for how long the link stood still in it."""
        start, found = self._evaluated, sensed.found
        long_enough = sensed.now_ns - start.now_ns > evaluation_period_ns
        match found:
            case SyncSeen(newly_dirty_bytes=newly_dirty_bytes, vcpu_dirty_bytes=vcpu_dirty_bytes):
                self._newly_dirty_bytes += newly_dirty_bytes
                self._vcpu_dirty_bytes = _added(self._vcpu_dirty_bytes, vcpu_dirty_bytes)
            case RateMeasured():
                start = self._measuring
                long_enough = True
        if found is None or not long_enough:
            return None, 0
        duration_ns = sensed.now_ns - start.now_ns
        dirty_bytes = self._newly_dirty_bytes
        if isinstance(found, RateSeen | RateMeasured):
            dirty_bytes = round(found.dirty_bytes_per_s * duration_ns / NS_PER_S)
        period = Period(
            duration_ns=duration_ns,
            dirty_bytes=dirty_bytes,
            sent_bytes=sensed.sent_bytes - start.sent_bytes,
            throttle_percent=throttle_percent,
            vcpu_throttle_percents=sensed.vcpu_throttle_percents,
            vcpu_dirty_bytes=self._vcpu_dirty_bytes,
        )
        return period, self._link.still_since(start.still_ns, duration_ns)

    def written(self, sensed: Sensed) -> Written | None:
        """Return what was found since the dirty log was looked at the time before."""
        if sensed.found is None:
            return None
        now = self._mark(sensed)
        window_ns: int | None = None
        vcpu_bytes: tuple[int, ...] | None = None
        match sensed.found:
            case SyncSeen(dirty_bytes=dirty_bytes, vcpu_dirty_bytes=vcpu_bytes):
                start, self._synced = self._synced, now
                distinct_bytes = dirty_bytes
            case RateMeasured(dirty_bytes_per_s=bytes_per_s, window_ns=int() | None as told_ns, parts=parts):
                start = self._measuring
                window_ns = (told_ns or now.now_ns - start.now_ns) // parts
                distinct_bytes = round(bytes_per_s * window_ns / NS_PER_S)
                if (rates := sensed.found.vcpu_dirty_bytes_per_s) is not None:
                    vcpu_bytes = tuple(round(rate * window_ns / NS_PER_S) for rate in rates)
            case _:
                return None
        duration_ns = now.now_ns - start.now_ns
        if distinct_bytes is None or duration_ns <= 0:
            return None
        share = 1 - (now.taken_ns - start.taken_ns) / duration_ns
        return Written(window_ns or duration_ns, share, distinct_bytes, vcpu_bytes)

    def _mark(self, sensed: Sensed) -> _Mark:
        taken_ns = self._ledger.taken_until(sensed.now_ns)
        return _Mark(sensed.now_ns, sensed.sent_bytes, self._link.total_still_ns, taken_ns)


def _added(one: tuple[int, ...] | None, other: tuple[int, ...] | None) -> tuple[int, ...] | None:
    """Return the sum for each vCPU of what two syncs found."""
    if one is None or other is None:
        return one or other
    return tuple(map(sum, zip(one, other, strict=True)))
