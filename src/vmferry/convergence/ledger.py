"""The account of what throttles have taken from a guest."""

from collections.abc import Sequence


class Ledger:
    """Adds up how much time throttles take from each vCPU."""

    is_known = True
    """False if part of the record is missing, or if a throttle was in force that takes no time that can be counted."""

    def __init__(self, vcpu_count: int = 0) -> None:
        self.vcpu_count = vcpu_count
        self._percents: tuple[int, ...] = (0,)
        """The throttle of each vCPU; a single one is that of all."""
        self._last_ns = 0
        self._taken_percent_ns: tuple[int, ...] = (0,)
        """A hundred times what was taken of each vCPU, so that it does not matter how often somebody looks.

        A single one is that of each, as long as all were slowed alike.
        """

    def set_throttle(self, time_ns: int, percent: int, vcpu_percents: Sequence[int] | None = None) -> None:
        """Let this throttle, or that of each vCPU, be in force from then on; 0 is none."""
        self.advance(time_ns)
        self._percents = tuple(vcpu_percents) if vcpu_percents else (percent,)

    def advance(self, time_ns: int) -> None:
        """Count the throttle up to then. Time does not run backwards."""
        time_ns = max(self._last_ns, time_ns)
        self._taken_percent_ns = self._taken(time_ns)
        self._last_ns = time_ns

    def taken_until(self, time_ns: int) -> int:
        """Return how much time is taken from a vCPU, in the mean of all, if the throttle in force stays until then."""
        return self._mean_ns(time_ns)

    @property
    def taken_ns(self) -> int:
        """How much time was taken from a vCPU, in the mean, up to the time that was told last."""
        return self._mean_ns(self._last_ns)

    @property
    def vcpu_taken_ns(self) -> tuple[int, ...]:
        """The same of each vCPU; empty if all were slowed alike all the time."""
        taken = self._taken_percent_ns
        return tuple(percent_ns // 100 for percent_ns in taken) if len(taken) > 1 else ()

    def _mean_ns(self, time_ns: int) -> int:
        passed_ns = max(0, time_ns - self._last_ns)
        count = max(len(self._percents), len(self._taken_percent_ns))
        if count == 1:  # nearly always, and this is asked at every look
            return (self._taken_percent_ns[0] + passed_ns * self._percents[0]) // 100
        taken, percent = (sum(each) * count // len(each) for each in (self._taken_percent_ns, self._percents))
        return (taken + passed_ns * percent) // (100 * count)

    def _taken(self, time_ns: int) -> tuple[int, ...]:
        passed_ns = max(0, time_ns - self._last_ns)
        count = max(len(self._percents), len(self._taken_percent_ns))
        before, percents = (
            each * count if len(each) == 1 else each for each in (self._taken_percent_ns, self._percents)
        )
        return tuple(taken + passed_ns * percent for taken, percent in zip(before, percents, strict=True))
