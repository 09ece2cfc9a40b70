"""Every policy that comes along keeps the contract, and so does the example; those that do not are found out."""

import random
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from vmferry.convergence.actions import Action, SwitchOver, Tell, Throttle
from vmferry.convergence.policies.policy import Policy
from vmferry.convergence.policies.registry import BUILT_IN, PolicyKind, find_policy, load_policy
from vmferry.convergence.sensing import Body, View
from vmferry.errors import PolicyError
from vmferry.testing.policy import PolicyContract

EXAMPLE = f"{Path(__file__).parents[2] / 'docs' / 'examples' / 'just_enough.py'}:JustEnough"


@pytest.mark.parametrize("kind", [*map(find_policy, BUILT_IN), load_policy(EXAMPLE)], ids=lambda kind: kind.name)
class TestPolicies(PolicyContract):
    @pytest.fixture(autouse=True)
    def of_this_kind(self, kind: PolicyKind, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(PolicyContract, "kind", kind, raising=False)


class NoSettings(msgspec.Struct, frozen=True):
    pass


class Changeable(msgspec.Struct):
    pass


class Bad:
    """A policy that is to be found out."""

    Settings: ClassVar[type] = NoSettings
    needs: ClassVar[Body] = Body.THROTTLE
    seen: ClassVar[list[int]] = []

    def look(self, view: View, settings: Any) -> Iterable[Action]:
        raise NotImplementedError


class TooHard(Bad):
    def look(self, view: View, settings: Any) -> Iterable[Action]:
        return [Throttle(percent=100, reason="all")]


class Undeclared(Bad):
    def look(self, view: View, settings: Any) -> Iterable[Action]:
        return [SwitchOver(reason="now")] if view.sensed.iteration_count > 2 else []


class DividesByWhatWasSent(Bad):
    def look(self, view: View, settings: Any) -> Iterable[Action]:
        return [Throttle(percent=min(99, view.elapsed_ns // max(1, view.sensed.sent_bytes // view.sensed.sent_bytes)),
                         reason="more")]  # fmt: skip


class LooksAtTheClock(Bad):
    def look(self, view: View, settings: Any) -> Iterable[Action]:
        return [Tell(reason="late")] if time.monotonic() < 0 else []


class LooksAtTheDate(Bad):
    def look(self, view: View, settings: Any) -> Iterable[Action]:
        return [Tell(reason="late")] if datetime.now(UTC).year < 2000 else []


class ThrowsDice(Bad):
    def look(self, view: View, settings: Any) -> Iterable[Action]:
        return [Throttle(percent=random.randrange(50), reason="luck")]


class Remembers(Bad):
    def look(self, view: View, settings: Any) -> Iterable[Action]:
        self.seen.append(view.elapsed_ns)
        return [Throttle(percent=len(self.seen) % 90, reason="again")]


class CanBeChanged(Bad):
    Settings: ClassVar[type] = Changeable

    def look(self, view: View, settings: Any) -> Iterable[Action]:
        return []


C = PolicyContract


@pytest.mark.parametrize(
    ("bad", "test"),
    [
        (TooHard, C.test_it_answers_only_actions_that_it_has_declared_within_their_ranges),
        (Undeclared, C.test_it_answers_only_actions_that_it_has_declared_within_their_ranges),
        (DividesByWhatWasSent, C.test_it_survives_odd_views),
        (LooksAtTheClock, C.test_it_looks_at_no_clock_and_takes_no_chances),
        (LooksAtTheDate, C.test_it_looks_at_no_clock_and_takes_no_chances),
        (ThrowsDice, C.test_it_looks_at_no_clock_and_takes_no_chances),
        (ThrowsDice, C.test_the_same_migration_is_decided_alike),
        (Remembers, C.test_migrations_do_not_know_of_each_other),
        (CanBeChanged, C.test_its_settings_have_values_of_their_own_and_cannot_be_changed_in_place),
    ],
)
def test_what_breaks_the_contract_is_found_out(bad: type[Policy], test: Any) -> None:
    class Test(PolicyContract):
        kind = PolicyKind("bad", bad, bad.Settings, bad.needs, "")

    Bad.seen.clear()
    with pytest.raises((AssertionError, PolicyError)):
        test(Test())
