"""Other limits, while a migration runs: what obeys them, and what its VM is told."""

import pytest

from tests.support.fake_qemu import FakeQemu
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.limit_keeper import LimitKeeper
from vmferry.control.migration_order import Order
from vmferry.control.undoing.settings import Settings
from vmferry.convergence.brain import Rules
from vmferry.convergence.limits import Limits
from vmferry.convergence.policies.planned_settings import PlannedSettings
from vmferry.convergence.variants import PLANNED
from vmferry.errors import UsageError
from vmferry.simulation.clock import VirtualClock

S = 1_000_000_000


class Obeying:
    """A body that only takes note of its rules."""

    rules: Rules

    def obey(self, rules: Rules) -> None:
        self.rules = rules


@pytest.fixture
def qemu() -> FakeQemu:
    return FakeQemu([])


@pytest.fixture
def body() -> Obeying:
    return Obeying()


@pytest.fixture
def settings(qemu: FakeQemu) -> Settings:
    return Settings(qemu, VirtualClock(), DrivenVm.ask(qemu))


def keeper(qemu: FakeQemu, settings: Settings, body: Obeying, limits: Limits, *, ours: bool) -> LimitKeeper:
    order = Order(uri=None, variant=PLANNED, limits=limits)
    return LimitKeeper(DrivenVm.ask(qemu), order, settings, body, is_decided_by_us=ours)  # type: ignore[arg-type]


def test_a_policy_that_plans_is_told_its_new_goals_and_the_vm_its_new_bound(
    qemu: FakeQemu, settings: Settings, body: Obeying
) -> None:
    one = keeper(qemu, settings, body, Limits(deadline_ns=9 * S), ours=True)
    wanted = Limits(deadline_ns=60 * S, max_downtime_ms=100, max_throttle_percent=70)
    one.keep(wanted)
    goals = body.rules.policy_settings
    assert isinstance(goals, PlannedSettings)
    assert (goals.finish_by_ms, goals.max_downtime_ms) == (60_000, 100)
    assert (body.rules.limits, body.rules.max_throttle_percent) == (wanted, 70)
    assert qemu.told == [("migrate-set-parameters", {"downtime-limit": 100})]
    one.keep(Limits())
    goals = body.rules.policy_settings
    assert isinstance(goals, PlannedSettings)
    assert (goals.finish_by_ms, goals.has_goals, body.rules.max_throttle_percent) == (0, False, 99)
    assert qemu.parameters["downtime-limit"] == 300


def test_a_bound_that_is_wider_again_gives_back_what_the_vm_had_and_no_more(
    qemu: FakeQemu, settings: Settings, body: Obeying
) -> None:
    one = keeper(qemu, settings, body, Limits(), ours=True)
    for bound, limit in ((100, 100), (200, 200), (5000, 300), (50, 50)):
        one.keep(Limits(max_downtime_ms=bound))
        assert qemu.parameters["downtime-limit"] == limit
    settings.put_back()
    assert qemu.parameters["downtime-limit"] == 300


def test_a_vm_that_decides_itself_is_told_how_far_it_may_go(qemu: FakeQemu, settings: Settings, body: Obeying) -> None:
    keeper(qemu, settings, body, Limits(), ours=False).keep(Limits(max_throttle_percent=15))
    assert (qemu.parameters["max-cpu-throttle"], qemu.parameters["cpu-throttle-initial"]) == (15, 15)


def test_what_cannot_be_kept_changes_nothing(qemu: FakeQemu, settings: Settings, body: Obeying) -> None:
    with pytest.raises(UsageError, match="leaves no time"):
        keeper(qemu, settings, body, Limits(), ours=True).keep(Limits(deadline_ns=0, max_downtime_ms=100))
    assert (qemu.told, hasattr(body, "rules")) == ([], False)
