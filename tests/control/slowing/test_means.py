"""A means that fails while it runs is followed by the next one."""

from collections.abc import Sequence

import pytest

from vmferry.control.slowing import means as module
from vmferry.control.slowing.actuators import MEANS
from vmferry.control.slowing.dirty_rates import DirtyRates
from vmferry.control.slowing.means import Means
from vmferry.convergence.actions import Throttle
from vmferry.errors import CommandError, HostError

RATES = DirtyRates(1 << 30)


class Slowing:
    """A throttle that can take so much, once it is there, until it fails."""

    takes_time = True
    told_by_qemu = False

    def __init__(self, name: str, most_percent: int = 99) -> None:
        self.name = self.description = name
        self.in_force_percent = 0
        self.most_percent = most_percent
        self.failure: Exception | None = None
        self.applied: list[int] = []
        self.release_count = 0

    def apply(self, percent: int, unthrottled: DirtyRates) -> None:
        self.hold()
        self.applied.append(percent)
        self.in_force_percent = min(percent, self.most_percent)

    def hold(self) -> None:
        if self.failure:
            raise self.failure

    def release(self) -> None:
        self.in_force_percent = 0
        self.release_count += 1


class SlowingEach(Slowing):
    """It can slow vCPUs one by one, too."""

    has_thread_of_each = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.applied_to_each: list[Sequence[int]] = []

    def apply_each(self, percents: Sequence[int]) -> None:
        self.hold()
        self.applied_to_each.append(percents)
        self.in_force_percent = max(percents)


class HoldingStill(Slowing):
    """It can let all vCPUs sleep through, too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.held_count = 0

    def hold_still(self) -> None:
        self.held_count += 1
        self.in_force_percent = 99


@pytest.fixture
def slowing(monkeypatch: pytest.MonkeyPatch) -> dict[str, Slowing | HostError]:
    """What each means turns out to be; an error is raised."""
    found: dict[str, Slowing | HostError] = {name: Slowing(name) for name in MEANS}

    def take(name: str) -> Slowing:
        result = found[name]
        if isinstance(result, HostError):
            raise result
        return result

    monkeypatch.setattr(module, "KINDS", {name: lambda vm, name=name: take(name) for name in MEANS})
    return found


def throttle(percent: int, vcpu_percents: tuple[int, ...] | None = None, *, still: bool = False) -> Throttle:
    return Throttle(percent=percent, reason="", vcpu_percents=vcpu_percents, still=still)


def means(told: list[str], wanted: str | None = None) -> Means:
    return Means(None, wanted, told.append, module.KINDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [HostError("gone"), CommandError("gone", "GenericError")])
@pytest.mark.parametrize("when", ["apply", "hold"])
def test_what_was_asked_of_one_that_fails_the_next_does(
    slowing: dict[str, Slowing], error: Exception, when: str
) -> None:
    slowing["dirty-limit"] = HostError("no dirty ring")  # type: ignore[assignment]
    told: list[str] = []
    chosen = means(told)
    chosen.apply(throttle(50), RATES)
    slowing["cgroup"].failure = error
    if when == "apply":
        chosen.apply(throttle(90), RATES)
    else:
        chosen.hold()
    assert slowing["auto-converge"].applied == [90 if when == "apply" else 50]
    assert slowing["cgroup"].release_count == 1
    assert told == ["no longer by cgroup: gone; not by dirty-limit: no dirty ring; now by auto-converge"]
    assert chosen.reasons == ["no longer by cgroup: gone", "not by dirty-limit: no dirty ring"]


def test_the_one_that_is_wanted_is_not_replaced(slowing: dict[str, Slowing]) -> None:
    chosen = means([], "cgroup")
    slowing["cgroup"].failure = HostError("gone")
    with pytest.raises(HostError, match="the VM cannot be slowed: no longer by cgroup: gone"):
        chosen.apply(throttle(50), RATES)
    assert chosen.in_force_percent == 0
    assert slowing["cgroup"].release_count == 1


def test_what_is_in_force_is_told_and_not_what_was_wished(slowing: dict[str, Slowing]) -> None:
    slowing["cgroup"].most_percent = 98
    told: list[str] = []
    chosen = means(told)
    chosen.apply(throttle(90), RATES)
    chosen.apply(throttle(99), RATES)
    assert chosen.in_force_percent == 98
    assert told == ["by cgroup no more than 98 % can be taken, not 99 %"]


def test_vcpus_are_slowed_one_by_one_where_the_means_can_and_else_by_the_greatest(slowing: dict[str, Slowing]) -> None:
    each = slowing["cgroup"] = SlowingEach("cgroup")
    chosen = means([])
    before = chosen.slows_each_vcpu
    chosen.apply(throttle(90, (0, 90)), RATES)
    chosen.apply(throttle(50), RATES)
    assert (each.applied_to_each, each.applied) == ([(0, 90)], [50])
    each.failure = HostError("gone")
    chosen.apply(throttle(80, (80, 0)), RATES)
    assert (before, chosen.slows_each_vcpu) == (True, False)
    assert slowing["dirty-limit"].applied == [80]


def test_vcpus_that_share_a_thread_are_not_slowed_one_by_one(slowing: dict[str, Slowing]) -> None:
    each = slowing["cgroup"] = SlowingEach("cgroup")
    each.has_thread_of_each = False
    assert not means([]).slows_each_vcpu


def test_vcpus_are_held_still_where_that_is_possible_and_else_slowed_evenly(slowing: dict[str, Slowing]) -> None:
    still, told = HoldingStill("cgroup"), list[str]()
    slowing["cgroup"] = still
    chosen = means(told)
    chosen.apply(throttle(99, still=True), RATES)
    assert (still.held_count, still.applied, told) == (1, [], [])
    still.failure = HostError("gone")
    chosen.hold()
    assert slowing["dirty-limit"].applied == [99]
