"""The account of what throttles have taken from a guest."""


class Ledger:
    """Adds up how much time throttles take from one vCPU; all of them are throttled alike."""

    is_known = True
    """False if part of the record is missing, so that more may have been taken."""

    def __init__(self, vcpu_count: int = 0) -> None:
        self.vcpu_count = vcpu_count
        self._percent = 0
        self._last_ns = 0
        self._taken_percent_ns = 0
        """A hundred times what was taken, so that it does not matter how often somebody looks."""

    def set_throttle(self, time_ns: int, percent: int) -> None:
        """Let this throttle be in force from then on; 0 is none."""
        self.advance(time_ns)
        self._percent = percent

    def advance(self, time_ns: int) -> None:
        """Count the throttle up to then. Time does not run backwards."""
        time_ns = max(self._last_ns, time_ns)
        self._taken_percent_ns += (time_ns - self._last_ns) * self._percent
        self._last_ns = time_ns

    def taken_until(self, time_ns: int) -> int:
        """Return how much time is taken from one vCPU up to a moment, if the throttle in force stays until then."""
        return (self._taken_percent_ns + max(0, time_ns - self._last_ns) * self._percent) // 100

    @property
    def taken_ns(self) -> int:
        """How much time was taken from one vCPU up to the time that was told last."""
        return self._taken_percent_ns // 100
