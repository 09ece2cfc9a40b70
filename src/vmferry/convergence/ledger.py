"""The account of what throttles have taken from a guest."""


class Ledger:
    """Adds up how much time throttles take from one vCPU; all of them are throttled alike."""

    def __init__(self, vcpu_count: int = 0) -> None:
        self.vcpu_count = vcpu_count
        self._percent = 0
        self._last_ns = 0
        self._taken_percent_ns = 0

    def set_throttle(self, time_ns: int, percent: int) -> None:
        """Let this throttle be in force from then on; 0 is none."""
        self.advance(time_ns)
        self._percent = percent

    def advance(self, time_ns: int) -> None:
        """Count the throttle up to then. Time does not run backwards."""
        time_ns = max(self._last_ns, time_ns)
        self._taken_percent_ns += (time_ns - self._last_ns) * self._percent
        self._last_ns = time_ns

    def would_take_ns(self, duration_ns: int) -> int:
        """Return how much of a time the throttle in force takes."""
        return duration_ns * self._percent // 100

    @property
    def taken_ns(self) -> int:
        """How much time was taken from one vCPU up to the time that was told last."""
        return self._taken_percent_ns // 100
