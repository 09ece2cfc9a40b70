"""Works out from a migration's record what its throttle took from the guest. All figures of that come from here."""

from collections.abc import Callable

from vmferry.convergence.ledger import Ledger
from vmferry.migration.events import Decided, Ended, Event, Lost, Started, SwitchoverBegan, ThrottleSeen


class LostWork(Ledger):
    """A journal that keeps the account. While the guest is stopped for the switchover its throttle takes nothing."""

    def __init__(self, now_ns: Callable[[], int] | None = None) -> None:
        """`now_ns` is the clock of a reader who is asked while the record grows; None is the record's own clock.

        The two may be those of different hosts: the throttle goes on from when its event was read.
        """
        super().__init__()
        self.total_ns: int | None = None
        """How long the migration has taken; None before its end, or if nobody knows."""
        self._now_ns = now_ns
        self._read_ns = now_ns() if now_ns else 0

    def record(self, time_ns: int, event: Event) -> None:
        """Take notice of one event."""
        self.advance(time_ns)
        match event:
            case Started(vcpu_count=vcpu_count):
                self.vcpu_count = vcpu_count
            case Decided(throttle_percent=percent, vcpu_throttle_percents=percents):
                of_each = percents if percents and len(percents) == self.vcpu_count else None
                self.set_throttle(time_ns, percent, of_each)
                self.is_known &= event.takes_time or not percent
            case ThrottleSeen(throttle_percent=percent):
                self.set_throttle(time_ns, percent)
            case SwitchoverBegan():
                self.set_throttle(time_ns, 0)
            case Lost():
                self.is_known = False
            case Ended(total_time_ns=total_ns):
                self.total_ns = total_ns
                self.set_throttle(time_ns, 0)

    def advance(self, time_ns: int) -> None:
        """Let the throttle be in force until then, by the record's clock."""
        super().advance(time_ns)
        if self._now_ns:
            self._read_ns = self._now_ns()

    def taken_until(self, time_ns: int) -> int:
        """What is taken of one vCPU up to a moment of the reader's clock."""
        return super().taken_until(self._last_ns + time_ns - self._read_ns if self._now_ns else time_ns)

    @property
    def throttled_ns(self) -> int:
        """The integral of the throttle over time, of a vCPU in the mean, as far as it is known."""
        return self.taken_until(self._now_ns()) if self._now_ns else self.taken_ns

    @property
    def vcpu_ns(self) -> int:
        """What is lost of all vCPUs together: `throttled_ns` times their number."""
        return self.throttled_ns * self.vcpu_count

    def percent_of(self, duration_ns: int) -> float:
        """The share of the work that the guest could have done in that time."""
        return 100 * self.throttled_ns / duration_ns if duration_ns else 0.0
