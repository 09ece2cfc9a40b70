"""Does `planned` keep the goals that it is given? `python -m bench.goals --help`.

Random guests, links and hosts in virtual time as in `bench.against_ladder`, most of them without its troubles, each
with goals drawn at random. What comes of each is compared with what throttles come to that are held from some pass on.
"""

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, product, starmap
from typing import get_args

import click
from msgspec.structs import replace

from bench.against_ladder import migration, spread
from bench.held_throttle import held as held_from
from vmferry.convergence.limits import Limits, OnLimit
from vmferry.convergence.policies.planned_settings import Pace, goal_settings
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.parts import RunLimits
from vmferry.migration.events import Acted
from vmferry.migration.lost_work import LostWork
from vmferry.settings.policy_parameters import settings_text
from vmferry.simulation.run import SimulationResult
from vmferry.study.driven import simulate_driven
from vmferry.study.simulate import simulate
from vmferry.units import MS_PER_S, NS_PER_MS, NS_PER_S

_BODIES = ("", "qemu-7.2", "qemu-10")
_STEADY = 0.7
"""The share of them that are steady."""
_JITTER = 0.1
_HELD = tuple(product((99, 95, 80, 50), (1, 2, 4)))
"""Throttles, and from which pass on they are held."""
_LONGEST_NS, _MOST_PASSES = 60 * NS_PER_S, 300
"""They move a guest by then, or not at all."""
_SOON_S = 10.0
"""What is out of reach is to be said by then."""
_VAIN_S, _VAIN_SHARE = 10.0, 0.02
"""A guest that does not move loses no more of each vCPU, and that share of the time."""
_BY_ITSELF, _BY_ITSELF_S = 1.4, 5.0
"""A guest moves by itself soon enough if that takes no more than so many times as long as it took, and so much more."""
_DOWNTIME, _DOWNTIME_MS = 1.1, 30
"""The downtime may be so many times the limit, and so much more: it is a limit of what is expected."""


@dataclass(frozen=True)
class Trial:
    """One migration with goals."""

    experiment: Experiment
    limits: Limits
    pace: Pace | None
    is_steady: bool
    """Whether the guest does one thing all the time, on a host and a link that are hardly disturbed."""

    @cached_property
    def result(self) -> SimulationResult:
        """What comes of it by `planned`."""
        goals = {"policy-settings": settings_text(goal_settings(self.limits, self.pace))}
        experiment = replace(self.experiment, parameters={**self.experiment.parameters, **goals})
        if experiment.driven:
            return simulate_driven(experiment, "planned", limits=self.limits)
        return simulate(experiment, "planned")

    @cached_property
    def told_s(self) -> float | None:
        """When it was said that a goal cannot be met; None if it was not."""
        told = (entry.time_ns for entry in self.result.entries if _says_no(entry.event))
        return next((time_ns / NS_PER_S for time_ns in told), None)

    @property
    def highest_downtime_ms(self) -> float:
        """What the downtime may be."""
        limit_ms = int(self.experiment.parameters["downtime-limit"])
        return _DOWNTIME * max(limit_ms, self.limits.max_downtime_ms or 0) + _DOWNTIME_MS

    def misses(self, result: SimulationResult) -> Iterator[str]:
        """Yield the goals that a migration did not keep."""
        if not result.completed:
            yield "not moved"
        elif (result.downtime_ms or 0) > self.highest_downtime_ms:
            yield "downtime"
        if self.limits.deadline_ns is not None and (result.total_time_ms or 0) * NS_PER_MS > self.limits.deadline_ns:
            yield "deadline"
        if any(_is_above(self.limits, *spent) for spent in _spent(result)):
            yield "loss"

    def held(self, percent: int, from_pass: int = 1) -> SimulationResult:
        """Return what comes of it by a throttle that is held."""
        downtime_ms = max(int(self.experiment.parameters["downtime-limit"]), self.limits.max_downtime_ms or 0)
        longest = RunLimits(max_time_ns=self.limits.deadline_ns or _LONGEST_NS, max_iterations=_MOST_PASSES)
        parameters = {**self.experiment.parameters, "downtime-limit": downtime_ms}
        variant = held_from(percent, from_pass)
        limited = replace(self.experiment, parameters=parameters, limits=longest).choosing([], [variant])
        return simulate(limited, variant.name)

    @cached_property
    def free(self) -> SimulationResult:
        """What comes of it without a throttle."""
        return self.held(0)

    @cached_property
    def in_reach(self) -> bool:
        """Whether any throttle that is held keeps the goals, or none."""
        held = chain([self.free], starmap(self.held, _HELD))
        return any(not list(self.misses(result)) for result in held)

    @cached_property
    def moves_by_itself(self) -> bool:
        """Whether it keeps the goals without a throttle, and that not much later than with one."""
        if list(self.misses(self.free)):
            return False
        planned_ms, free_ms = self.result.total_time_ms or 0, self.free.total_time_ms or 0
        return self.pace == "gentle" or free_ms <= _BY_ITSELF * planned_ms + _BY_ITSELF_S * MS_PER_S

    def faults(self) -> Iterator[str]:
        """Yield in what `planned` has not done as it is to."""
        result, missed = self.result, list(self.misses(self.result))
        if "loss" in missed:
            yield "takes more than may be lost"
        if self.told_s is None:
            if missed and self.in_reach:
                yield f"does not keep what is in reach: {', '.join(missed)}"
            elif missed and self.limits.max_guest_loss_percent is None:
                yield f"says nothing of what is out of reach: {', '.join(missed)}"
        else:
            yield from self._faults_of_telling(missed, self.told_s)
        lost_s = (result.work_lost_vcpu_s or 0) / (result.vcpu_count or 1)
        if lost_s and self.pace != "fast" and self.is_steady and self.moves_by_itself:
            yield "slows a guest that moves by itself" if lost_s > 1 else "slows for a moment what moves by itself"
        if not result.completed and lost_s > _VAIN_S + _VAIN_SHARE * (result.total_time_ms or 0) / MS_PER_S:
            yield "slows in vain"

    def _faults_of_telling(self, missed: list[str], told_s: float) -> Iterator[str]:
        if not missed:
            yield "says no, and keeps it"
        elif self.in_reach:
            yield "says no to what is in reach"
        elif told_s > _SOON_S:
            yield "says no late"
        if self.limits.on_limit is OnLimit.CANCEL and self.has_goals and self.result.status != "cancelled":
            yield "is not cancelled"
        if self.limits.on_limit is OnLimit.SWITCHOVER and self.has_goals and not self.result.completed:
            yield "does not switch over"

    @property
    def has_goals(self) -> bool:
        """Whether something is asked for that can be impossible."""
        return self.limits != Limits(on_limit=self.limits.on_limit)


def _says_no(event: object) -> bool:
    return isinstance(event, Acted) and "cannot be met" in event.reason


def _spent(result: SimulationResult) -> Iterator[tuple[int, int, int]]:
    """Yield, whenever a throttle ends, how long it took so far, and how much of it was taken from each vCPU."""
    lost, begun_ns, vcpus = LostWork(), result.entries[0].time_ns, result.vcpu_count or 1
    for entry in result.entries:
        lost.record(entry.time_ns, entry.event)
        if entry.time_ns - begun_ns >= NS_PER_S:
            yield entry.time_ns - begun_ns, lost.taken_ns, vcpus


def _is_above(limits: Limits, elapsed_ns: int, taken_ns: int, vcpus: int) -> bool:
    share, amount_ns = limits.max_guest_loss_percent, limits.max_guest_loss_ns
    is_share_above = share is not None and taken_ns > elapsed_ns * share / 100
    return is_share_above or (amount_ns is not None and taken_ns * vcpus > amount_ns)


def trial(seed: int) -> Trial:
    """Return one of them; the same seed gives the same one."""
    draw, experiment = random.Random(f"goals {seed}"), migration(seed)
    experiment = replace(experiment, driven=_BODIES[seed % len(_BODIES)])
    if is_steady := draw.random() < _STEADY:
        experiment = _steady(experiment)
    pass_s = max(experiment.guest.used_bytes, experiment.guest.loads[0].memory_bytes) / experiment.link.rate_bytes_per_s
    limits, wanted = {}, draw.sample(("deadline", "share", "amount", "downtime"), draw.choice([0, 1, 1, 1, 2]))
    if "deadline" in wanted:
        limits["deadline_ns"] = int((0.5 + pass_s * spread(draw, 1.2, 20)) * MS_PER_S) * NS_PER_MS
    if "share" in wanted:
        limits["max_guest_loss_percent"] = round(spread(draw, 1, 80))
    if "amount" in wanted:
        limits["max_guest_loss_ns"] = int((0.5 + pass_s * spread(draw, 0.02, 4)) * MS_PER_S) * NS_PER_MS
    if "downtime" in wanted:
        limits["max_downtime_ms"] = round(int(experiment.parameters["downtime-limit"]) * spread(draw, 1.2, 12))
    pace = draw.choice([None, None, *get_args(Pace)])
    return Trial(experiment, Limits(**limits, on_limit=draw.choice(list(OnLimit))), pace, is_steady)


def _steady(experiment: Experiment) -> Experiment:
    guest, link = experiment.guest, experiment.link
    return replace(
        experiment,
        guest=replace(guest, stolen=0.0, loads=(replace(guest.loads[0], every_ns=0),)),
        link=replace(link, jitter=min(_JITTER, link.jitter), rate_changes=()),
    )


@click.command()
@click.option("--first", default=0, show_default=True, help="Seed of the first one.")
@click.option("--count", default=100, show_default=True, help="How many.")
def bench(first: int, count: int) -> None:
    """Name those whose goals are not kept as they could be, and count what is wrong."""
    faults: Counter[str] = Counter()
    right = told = 0
    for seed in range(first, first + count):
        each = trial(seed)
        found = list(each.faults())
        faults.update(found)
        right += not found
        told += each.told_s is not None
        if found:
            click.echo(f"{seed} ({each.experiment.driven or 'ours'}): {'; '.join(found)}")
    for fault, times in faults.most_common():
        click.echo(f"{times} of {count}: {fault}")
    click.echo(f"{right} of {count} as it is to be; of {told} it was said that a goal cannot be met")


if __name__ == "__main__":
    bench()
