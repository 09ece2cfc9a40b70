"""What every policy promises. Subclass, and say which policy it is.

    class TestMine(PolicyContract):
        kind = load_policy("mine.py:Mine")

The policy is shown courses of migrations by the brain itself, for a body that can do what the policy declares and no
more: ordinary ones, and odd ones, with its settings as they come and at the ends of their ranges.
"""

import gc
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType, ModuleType
from typing import Any, ClassVar

import msgspec
from msgspec import inspect

from vmferry.convergence.actions import Action, Measure, SetDowntimeLimit, Throttle
from vmferry.convergence.brain import Convergence, Rules
from vmferry.convergence.ledger import Ledger
from vmferry.convergence.link import LinkWatch
from vmferry.convergence.policies.registry import PolicyKind
from vmferry.convergence.sensing import Body, RateSeen, Sensed, SyncSeen
from vmferry.convergence.watcher import IdleWatcher
from vmferry.units import MIB, NS_PER_MS, NS_PER_S

_OUTSIDE = {"time", "datetime", "random", "_random", "posix", "_socket", "secrets", "uuid"}
"""Modules whose functions written in C tell of the world, or of chance."""
_FEW, _MANY = 40, 150

Course = Sequence[Sensed]


@dataclass(frozen=True)
class Shown:
    """What a policy did in one migration."""

    actions: list[list[Action]]
    """At each look."""
    outside: list[str]
    """What it called that tells of the world, or of chance."""


class PolicyContract:
    """Its tests make the policy as often as they like."""

    kind: ClassVar[PolicyKind]
    """The policy; `find_policy` and `load_policy` return it."""

    def settings(self) -> list[msgspec.Struct]:
        """Return settings to try: those that it has by itself, and each field at both ends of its range."""
        return [self.kind.settings_type(), *_extremes(self.kind.settings_type)]

    def show(self, course: Course, settings: Sequence[msgspec.Struct], body: Body | None = None) -> Shown:
        """Let a new policy see a course, with these settings in turn. Raises PolicyError if it is broken."""
        return _show(self.kind, course, settings, self.kind.needs if body is None else body)

    def test_its_settings_have_values_of_their_own_and_cannot_be_changed_in_place(self) -> None:
        settings = self.kind.settings_type()
        assert self.kind.settings_type.__struct_config__.frozen, "make the Settings frozen=True"
        assert self.kind.settings("", {}) == settings

    def test_it_answers_only_actions_that_it_has_declared_within_their_ranges(self) -> None:
        for seed, settings in enumerate(self.settings()):
            self.show(ordinary(seed), [settings])

    def test_it_survives_odd_views(self) -> None:
        for course in odd():
            self.show(course, [self.kind.settings_type()])

    def test_it_survives_settings_that_change_meanwhile(self) -> None:
        self.show(ordinary(0), self.settings())

    def test_the_same_migration_is_decided_alike(self) -> None:
        first, second = (self.show(ordinary(0), [self.kind.settings_type()]) for _ in range(2))
        assert first.actions == second.actions, "two of it, shown the same, answer differently"

    def test_migrations_do_not_know_of_each_other(self) -> None:
        settings = [self.kind.settings_type()]
        before = self.show(ordinary(1), settings)
        self.show(ordinary(2), settings)
        assert self.show(ordinary(1), settings).actions == before.actions, "what one has seen changes what another does"

    def test_it_looks_at_no_clock_and_takes_no_chances(self) -> None:
        outside = self.show(ordinary(1), self.settings()).outside
        assert not outside, f"it calls {', '.join(dict.fromkeys(outside))}"

    def test_another_body_makes_no_difference_to_it(self) -> None:
        every = Body.THROTTLE | Body.MEASURE | Body.DOWNTIME_LIMIT | Body.SWITCH_OVER | Body.POSTCOPY
        settings = [self.kind.settings_type()]
        assert self.show(ordinary(1), settings, every).actions == self.show(ordinary(1), settings).actions


def ordinary(seed: int) -> Course:
    """Return the looks at a migration of a busy guest, some ten per second, of several passes and some minutes."""
    chance = random.Random(seed)
    now_ns = sent_bytes = 0
    remaining_bytes, passes = 4096 * MIB, 1
    looks: list[Sensed] = []
    while len(looks) < _MANY:
        found = None
        now_ns += chance.choice((NS_PER_S // 10, NS_PER_S // 10, NS_PER_S // 2, 3 * NS_PER_S))
        more_bytes = min(remaining_bytes, chance.randrange(1, 400) * MIB)
        sent_bytes, remaining_bytes = sent_bytes + more_bytes, remaining_bytes - more_bytes
        if remaining_bytes < 100 * MIB:
            dirty_bytes = chance.randrange(1, 2000) * MIB
            passes, remaining_bytes = passes + 1, remaining_bytes + dirty_bytes
            found = SyncSeen(dirty_bytes, dirty_bytes)
        looks.append(_sensed(now_ns, sent_bytes, remaining_bytes, passes, found=found))
    return looks


def odd() -> Iterator[Course]:
    """Yield courses in which something is as it rarely is."""
    course = ordinary(0)[:_FEW]
    yield [replace(look, bandwidth_bytes_per_s=0.0, threshold_bytes=0) for look in course]
    yield [replace(look, sent_bytes=0) for look in course]
    yield [replace(look, remaining_bytes=0) for look in course]
    yield [replace(look, memory_bytes=0) for look in course]
    yield [replace(look, again_bytes=None, found=look.found and SyncSeen(0, None)) for look in course]
    yield [replace(look, found=RateSeen(float(1 << 40))) for look in course]
    yield [replace(look, now_ns=look.now_ns * 100_000) for look in course]
    yield [replace(look, iteration_count=1000 * look.iteration_count, dirty_sync_count=10**6) for look in course]
    yield [replace(look, downtime_limit_ns=0, measuring=True) for look in course]
    yield [look for look in course for _ in range(3)]
    yield [_sensed(number, 0, 0, 0, found=SyncSeen(0, 0)) for number in range(_FEW)]
    yield [
        _sensed(number * NS_PER_S, 1 << 60, 1 << 60, number, found=SyncSeen(1 << 60, 1 << 60)) for number in range(_FEW)
    ]


def _sensed(now_ns: int, sent_bytes: int, remaining_bytes: int, passes: int, *, found: SyncSeen | None) -> Sensed:
    return Sensed(
        now_ns=now_ns,
        sent_bytes=sent_bytes,
        memory_bytes=4096 * MIB,
        remaining_bytes=remaining_bytes,
        again_bytes=0,
        threshold_bytes=60 * MIB,
        bandwidth_bytes_per_s=200.0 * MIB,
        downtime_limit_ns=300 * NS_PER_MS,
        iteration_count=passes,
        dirty_sync_count=passes,
        found=found,
    )


def _show(kind: PolicyKind, course: Course, settings: Sequence[msgspec.Struct], body: Body) -> Shown:
    link, ledger = LinkWatch(2 * NS_PER_S), Ledger(vcpu_count=4)
    brain = Convergence(kind, body, IdleWatcher(), link, ledger, replace(course[0], found=None))
    limit_ns, actions, outside = course[0].downtime_limit_ns, [], list[str]()
    for number, look in enumerate(course):
        rules = Rules(
            evaluation_period_ns=NS_PER_S,
            max_throttle_percent=99,
            policy_settings=settings[number % len(settings)],
        )
        link.look(look.now_ns, look.sent_bytes, look.remaining_bytes)
        with _watched(outside):
            answers = brain.look(replace(look, downtime_limit_ns=limit_ns), rules)
        for answer in answers:
            if isinstance(answer, Throttle):
                ledger.set_throttle(look.now_ns, answer.percent, answer.vcpu_percents)
            elif isinstance(answer, SetDowntimeLimit):
                limit_ns = answer.limit_ns
            elif isinstance(answer, Measure):
                with _watched(outside):
                    answers += brain.look(replace(look, found=SyncSeen(MIB, MIB)), rules)
        actions.append(answers)
    return Shown(actions, outside)


@contextmanager
def _watched(outside: list[str]) -> Iterator[None]:
    """Take down which functions that tell of the world are called meanwhile."""

    def note(frame: FrameType, event: str, function: Any) -> None:
        if event == "c_call" and _origin(function) in _OUTSIDE:
            outside.append(f"{_origin(function)}.{function.__name__}")

    before: Callable[..., Any] | None = sys.getprofile()
    collects = gc.isenabled()
    gc.disable()  # others may look at the clock whenever garbage is collected, as hypothesis does
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()


def _origin(function: Any) -> str:
    """Return the module of a function that is written in C, also of one that is a method of a class or an object."""
    owner = getattr(function, "__self__", None)
    if isinstance(owner, ModuleType):
        return owner.__name__
    return (owner if isinstance(owner, type) else type(owner)).__module__


def _extremes(settings_type: type[msgspec.Struct]) -> Iterator[msgspec.Struct]:
    """Yield settings with one field at an end of its range, or another of its words."""
    info = inspect.type_info(settings_type)
    assert isinstance(info, inspect.StructType)
    for field in info.fields:
        for value in _ends(field.type):
            try:
                yield msgspec.convert({field.name: value}, settings_type)
            except (msgspec.ValidationError, ValueError):  # two settings may have to fit each other
                continue


def _ends(kind: inspect.Type) -> list[Any]:
    match kind:
        case inspect.BoolType():
            return [False, True]
        case inspect.LiteralType(values=values):
            return list(values)
        case inspect.IntType() | inspect.FloatType():
            return [end for end in (kind.ge, kind.le) if end is not None]
    return []
