"""How a throttle is spread over vCPUs by what each of them dirties: writers are slowed, readers are not.

A policy asks for a throttle of p % and expects that the guest dirties (100 - p) % of what it would dirty. The same is
had for less of the guest's work if all vCPUs get one ceiling for what they dirty, and those that stay below it by
themselves are left alone. With vCPUs that write alike it is p % for each.

What each vCPU dirties is told by the body where it knows; else an experiment finds out: all are slowed as far as is
allowed for a moment, and then each in turn runs alone. How much more becomes dirty is what it dirties.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from vmferry.convergence.actions import Action, Measure, Throttle, of_each_vcpu
from vmferry.convergence.sensing import Sensed, SyncSeen
from vmferry.convergence.written import Written
from vmferry.units import NS_PER_MS, NS_PER_S

LOOK_NS = 50 * NS_PER_MS
"""How long each vCPU runs alone in the experiment; where the body measures ahead, as long again at least."""
_PRECISION = 0.03
"""Whoever seems to dirty no more of it all than this is taken for a reader."""
_PATIENCE_NS = 5 * NS_PER_S
"""The experiment is given up when a measurement takes longer."""
_ROUNDS = 60
"""Halvings until the ceiling is exact to a double."""
_ROUNDING = 1e-9


def spread(percent: int, rates: Sequence[float], most_percent: int) -> tuple[int, ...]:
    """Return a throttle for each vCPU, which dirties its rate when it is not slowed, together as good as `percent`.

    None is above `most_percent`, which is at least `percent`. Where nobody dirties anything, all are slowed alike.
    """
    wanted = sum(rates) * (100 - percent) / 100
    if not wanted:
        return (percent,) * len(rates)
    low, high = 0.0, max(rates)
    for _ in range(_ROUNDS):
        ceiling = (low + high) / 2
        dirtied = sum(max(min(rate, ceiling), rate * (100 - most_percent) / 100) for rate in rates)
        low, high = (ceiling, high) if dirtied < wanted else (low, ceiling)
    return tuple(_throttle(rate, low, most_percent) for rate in rates)


def _throttle(rate: float, ceiling: float, most_percent: int) -> int:
    if rate <= ceiling:
        return 0
    return min(math.ceil(100 * (1 - ceiling / rate) - _ROUNDING), most_percent)


class Sharing:
    """Knows what each vCPU of a guest dirties, or finds out when the first throttle is to be spread, if it may."""

    def __init__(self, *, experiments: bool) -> None:
        self.rates: tuple[float, ...] | None = None
        """What each vCPU dirties in bytes/s when it is not slowed; None if that is not known."""
        self._experiments = experiments
        self._experiment: _Experiment | None = None

    @property
    def experimenting(self) -> bool:
        """True while the experiment goes on, in which the guest's behaviour tells nothing else."""
        return self._experiment is not None

    def learn(self, written: Written, throttle_percents: Sequence[int] | int) -> None:
        """Take notice of what each vCPU wrote, if the body tells, under the throttle of each, or that of all."""
        found_bytes = written.vcpu_bytes or ()
        percents = (throttle_percents,) * len(found_bytes) if isinstance(throttle_percents, int) else throttle_percents
        if not found_bytes or len(percents) != len(found_bytes):
            return
        self.rates = tuple(
            found * NS_PER_S / written.duration_ns * 100 / (100 - percent)
            for found, percent in zip(found_bytes, percents, strict=True)
        )

    def shared(self, wanted: Throttle, vcpu_count: int, now_ns: int, most_percent: int) -> Throttle:
        """Return a throttle spread, or if it is not known how, the first step of the experiment."""
        if not wanted.percent or vcpu_count < 2 or (self.rates and len(self.rates) != vcpu_count):
            return wanted
        if self.rates is None and not self._experiments:
            return wanted
        if self.rates is None:
            self._experiment = _Experiment(vcpu_count, wanted, now_ns, most_percent)
            return self._experiment.step()
        percents = spread(wanted.percent, self.rates, most_percent)
        reason = f"{wanted.reason}; by what each vCPU dirties: {'/'.join(map(str, percents))} %"
        return replace(
            wanted, percent=max(percents), vcpu_percents=percents, asked_percent=wanted.percent, reason=reason
        )

    def look(self, sensed: Sensed, written: Written | None) -> list[Action]:
        """Go on with the experiment; its last action is the throttle that was wanted, spread."""
        assert self._experiment
        experiment = self._experiment
        actions = experiment.look(sensed, written)
        if experiment.rates is None:
            return actions
        self.rates, self._experiment = experiment.rates, None
        return [self.shared(experiment.wanted, len(experiment.rates), sensed.now_ns, experiment.most_percent)]


class _Experiment:
    """Lets no vCPU run freely, and then one after the other."""

    def __init__(self, vcpu_count: int, wanted: Throttle, now_ns: int, most_percent: int) -> None:
        self.wanted = wanted
        self.most_percent = most_percent
        self.rates: tuple[float, ...] | None = None
        """The result."""
        self._vcpu_count = vcpu_count
        self._found: list[float] = []
        self._began_ns = now_ns
        self._measuring = False

    @property
    def _who(self) -> str:
        return f"vCPU {len(self._found) - 1}" if self._found else "nobody"

    def step(self) -> Throttle:
        """Let the next vCPU run alone; nobody at first."""
        alone = len(self._found) - 1
        percents = tuple(0 if vcpu == alone else self.most_percent for vcpu in range(self._vcpu_count))
        return of_each_vcpu(percents, f"{self._who} runs freely, to see what becomes dirty")

    def look(self, sensed: Sensed, written: Written | None) -> list[Action]:
        """Return what to do next, if anything."""
        if self._measuring and (isinstance(sensed.found, SyncSeen) or self._is_late(sensed)) and not written:
            self.rates = (1.0,) * self._vcpu_count  # nobody can tell: all are slowed alike
        elif written and self._measuring:
            self._found.append(written.distinct_bytes * NS_PER_S / written.duration_ns)
            self._began_ns, self._measuring = sensed.now_ns, False
            if len(self._found) <= self._vcpu_count:
                return [self.step()]
            self.rates = self._solved()
        elif not self._measuring and sensed.now_ns - self._began_ns >= LOOK_NS:
            self._measuring = True
            return [Measure(reason=f"what becomes dirty while {self._who} runs freely?", window_ns=LOOK_NS)]
        return []

    def _is_late(self, sensed: Sensed) -> bool:
        return sensed.now_ns - self._began_ns > _PATIENCE_NS

    def _solved(self) -> tuple[float, ...]:
        """Return the rate of each vCPU; what is within the precision of the experiment is nothing."""
        slowed, *alone = self._found
        rates = [max(0.0, found - slowed) * 100 / self.most_percent for found in alone]
        return tuple(rate if rate > _PRECISION * sum(rates) else 0.0 for rate in rates)
