"""What all policies have in common: periods, silence, checks."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, ClassVar, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.looks import S, sensed
from vmferry.convergence.actions import Action, Measure, SetDowntimeLimit, SwitchOver, Tell, Throttle, of_each_vcpu
from vmferry.convergence.brain import Convergence, Rules
from vmferry.convergence.ledger import Ledger
from vmferry.convergence.link import LinkWatch
from vmferry.convergence.policies.registry import PolicyKind
from vmferry.convergence.sensing import Body, RateMeasured, RateSeen, SyncSeen, View
from vmferry.convergence.watcher import IterationView
from vmferry.errors import PolicyError, UsageError

MIB = 1 << 20
CAN = Body.THROTTLE | Body.MEASURE | Body.DOWNTIME_LIMIT


class NoSettings(msgspec.Struct, frozen=True):
    pass


RULES = Rules(evaluation_period_ns=S, max_throttle_percent=80, policy_settings=NoSettings())


class Watcher:
    """Due when it is told so."""

    wanted = False

    def due(self, view: IterationView) -> bool:
        wanted, self.wanted = self.wanted, False
        return wanted


class Scripted:
    """Answers what it is told to and remembers what it has seen."""

    Settings: ClassVar[type] = NoSettings
    needs: ClassVar[Body] = Body.THROTTLE

    def __init__(self, answer: Callable[[View], Iterable[Any]]) -> None:
        self.answer = answer
        self.seen: list[View] = []

    def look(self, view: View, settings: NoSettings) -> Iterable[Action]:
        self.seen.append(view)
        return self.answer(view)


class Bench:
    """A brain with everything around it."""

    def __init__(
        self,
        answer: Callable[[View], Iterable[Any]] = lambda view: (),
        can: Body = CAN,
        *,
        throttle_writers: bool = False,
    ) -> None:
        self.policy = Scripted(answer)
        self.watcher = Watcher()
        self.link = LinkWatch(2 * S)
        self.ledger = Ledger(vcpu_count=2)
        kind = PolicyKind("scripted", lambda: self.policy, NoSettings, Body.THROTTLE, "")
        self.brain = Convergence(
            kind, can, self.watcher, self.link, self.ledger, sensed(0), throttle_writers=throttle_writers
        )
        self.link.look(0, 0, 1 << 50)

    def look(self, *args: Any, rules: Rules = RULES) -> list[Action]:
        now = replace(sensed(*args), vcpu_throttle_percents=(0, 0))
        self.link.look(now.now_ns, now.sent_bytes, 1 << 50)
        return self.brain.look(now, rules)

    @property
    def periods(self) -> list[tuple[int, int, int]]:
        periods = [view.period for view in self.policy.seen if view.period]
        return [(period.duration_ns // S, period.dirty_bytes, period.sent_bytes) for period in periods]


def test_syncs_count_into_the_period_until_it_is_long_enough() -> None:
    bench = Bench()
    for second in (0.3, 0.6, 1.0):
        bench.look(second, 10, SyncSeen(100))
    assert bench.periods == []
    bench.look(2, 50, SyncSeen(100))
    bench.look(4, 90, SyncSeen(7))
    assert bench.periods == [(2, 400, 50), (2, 7, 40)]


def test_a_rate_of_the_vms_own_waits_until_the_period_is_long_enough() -> None:
    bench = Bench()
    bench.look(0.5, 10, RateSeen(1000.0))
    bench.look(3, 30, RateSeen(1000.0))
    assert bench.periods == [(3, 3000, 30)]


def test_a_measurement_is_evaluated_over_its_own_window() -> None:
    bench = Bench()
    bench.look(5, 500)
    bench.watcher.wanted = True
    assert [type(action) for action in bench.look(6, 600)] == [Measure]
    bench.look(7, 700, RateMeasured(1000.0))
    assert bench.periods == [(1, 1000, 100)]


def test_a_measurement_that_the_policy_asks_for_is_evaluated_over_its_own_window_too() -> None:
    bench = Bench(lambda view: [Measure(reason="so")] if view.elapsed_ns == 6 * S else [])
    bench.look(5, 500)
    bench.watcher.wanted = True
    assert [action.reason for action in bench.look(6, 600)] == ["nothing was evaluated for long"]
    bench.look(8, 800, RateMeasured(1000.0))
    assert bench.periods == [(2, 2000, 200)]


def test_after_a_sync_nobody_looks_again_at_once() -> None:
    bench = Bench()
    bench.watcher.wanted = True
    assert not bench.look(0.5, 10, SyncSeen(100))
    assert bench.watcher.wanted


def test_silence_is_cut_out_of_a_period() -> None:
    bench = Bench(lambda view: [Throttle(percent=30, reason="more")] if view.period else [])
    for tenth in range(1, 31):
        bench.look(tenth / 10, tenth * MIB)
    for tenth in range(31, 51):
        bench.look(tenth / 10, 30 * MIB)
    (throttle,) = bench.look(5, 30 * MIB, SyncSeen(5000))
    assert isinstance(throttle, Throttle)
    assert throttle.period
    assert (throttle.percent, throttle.period.dirty_bytes) == (30, 5000)
    assert bench.periods == [(3, 3000, 30 * MIB)]
    for tenth in range(51, 101):
        bench.look(tenth / 10, 30 * MIB)
    (throttle,) = bench.look(10, 30 * MIB, SyncSeen(5000))
    assert isinstance(throttle, Throttle)
    assert (throttle.percent, throttle.reason) == (30, "next to nothing was sent for 5.0 of 5.0 s: throttle stays 30 %")
    assert len(bench.periods) == 1


def test_who_says_nothing_of_a_period_leaves_the_throttle_as_it_is() -> None:
    answers = iter([[Throttle(percent=20, reason="so")], []])
    bench = Bench(lambda view: next(answers))
    bench.look(2, MIB, SyncSeen(1))
    (throttle,) = bench.look(4, 2 * MIB, SyncSeen(1))
    assert isinstance(throttle, Throttle)
    assert throttle.period
    assert (throttle.percent, throttle.period.throttle_percent) == (20, 20)


def test_an_operators_highest_throttle_is_never_passed() -> None:
    bench = Bench(lambda view: [Throttle(percent=99, reason="all")])
    (throttle,) = bench.look(1, MIB)
    assert isinstance(throttle, Throttle)
    assert throttle.percent == bench.brain.throttle_percent == 80


def test_a_policy_sees_what_throttles_have_cost_so_far() -> None:
    bench = Bench()
    bench.ledger.set_throttle(0, 50)
    bench.look(4, MIB)
    assert bench.policy.seen[-1].lost_ns == 2 * S
    assert bench.policy.seen[-1].elapsed_ns == 4 * S
    assert bench.policy.seen[-1].vcpu_count == 2


def fails(view: View) -> Iterable[Action]:
    raise ZeroDivisionError("by zero")


def leaves(view: View) -> Iterable[Action]:
    raise SystemExit(0)


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (fails, "it failed with ZeroDivisionError('by zero')"),
        (lambda view: None, "it failed with TypeError(\"'NoneType' object is not iterable\")"),
        (lambda view: ["faster"], "it answered 'faster', which is no action"),
        (lambda view: [Throttle(percent=100, reason="")], "it answered a throttle of 100 %, 0 to 99 are possible"),
        (lambda view: [Throttle(percent=-1, reason="")], "it answered a throttle of -1 %, 0 to 99 are possible"),
        (lambda view: [Throttle(percent=cast(int, "9"), reason="")], "a throttle of '9' %"),
        (lambda view: [Throttle(percent=True, reason="")], "it answered a throttle of True %"),
        (lambda view: [SwitchOver(reason="now")], "it answered SwitchOver, which cannot be done here"),
        (lambda view: [SetDowntimeLimit(limit_ns=-1, reason="")], "it answered a downtime limit of -1 ns"),
        (lambda view: [SetDowntimeLimit(limit_ns=0.5, reason="")], "it answered a downtime limit of 0.5 ns"),  # type: ignore[arg-type]
        (lambda view: [Tell(reason=7)], "the reason of its Tell is no text"),  # type: ignore[arg-type]
        (lambda view: [Tell(reason="x" * 2000)], "the reason of its Tell is no text of at most 1000 characters"),
        (lambda view: [Tell(reason="\ud800")], "the reason of its Tell is no text"),
        (lambda view: [Throttle(percent=1, reason="", figures={"x": float("nan")})], "the figures of its Throttle"),
        (lambda view: [Throttle(percent=1, reason="", figures=[1])], "the figures of its Throttle"),  # type: ignore[arg-type]
        (lambda view: [Unshowable()], "it answered a Unshowable, which is no action"),
        (leaves, "it failed with SystemExit(0)"),
    ],
)
def test_a_broken_policy_is_named_with_what_it_did(answer: Callable[[View], Iterable[Any]], why: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Bench(answer).look(2, MIB, SyncSeen(1))
    assert why in str(caught.value)
    assert str(caught.value).startswith("the policy 'scripted' is broken: ")


@pytest.mark.parametrize(
    ("percent", "percents", "can", "why"),
    [
        (50, (50, 0), CAN, "it answered a throttle of single vCPUs, which cannot be done here"),
        (
            50,
            (50, 0, 0),
            CAN | Body.PER_VCPU,
            "it answered throttles of vCPUs that are (50, 0, 0), not 2 integers from",
        ),
        (100, (100, 0), CAN | Body.PER_VCPU, "it answered a throttle of 100 %, 0 to 99 are possible"),
        (50, (50, -1), CAN | Body.PER_VCPU, "(50, -1), not 2 integers from 0 to 99, the greatest of which"),
        (50, (40, 0), CAN | Body.PER_VCPU, "the greatest of which is its percent, 50"),
        (50, [50, 0], CAN | Body.PER_VCPU, "[50, 0], not 2"),
        (50, (50, True), CAN | Body.PER_VCPU, "(50, True), not 2"),
    ],
)
def test_throttles_of_single_vcpus_are_checked(percent: int, percents: Any, can: Body, why: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Bench(lambda view: [Throttle(percent=percent, vcpu_percents=percents, reason="")], can).look(
            2, MIB, SyncSeen(1)
        )
    assert why in str(caught.value)


def test_throttles_of_single_vcpus_are_cut_to_what_is_allowed_and_stay() -> None:
    answers = [[of_each_vcpu((95, 10), "now")], []]
    bench = Bench(lambda view: answers.pop(0), CAN | Body.PER_VCPU)
    for second in (2, 4):
        (throttle,) = bench.look(second, MIB, SyncSeen(1))
        assert isinstance(throttle, Throttle)
        assert (throttle.percent, throttle.vcpu_percents) == (80, (80, 10))


def test_what_vcpus_dirtied_is_added_up_over_a_period() -> None:
    bench = Bench()
    bench.look(0.5, 10, SyncSeen(100, 100, (60, 40)))
    bench.look(2, 20, SyncSeen(100, 120, (60, 60)))
    bench.look(4, 30, SyncSeen(100, 100))
    found = [view.period.vcpu_dirty_bytes for view in bench.policy.seen if view.period]
    assert found == [(120, 100), None]


def test_a_throttle_is_spread_over_the_vcpus_that_write_where_that_is_asked_for() -> None:
    asked = {2: 40, 4: 60, 6: 0}
    bench = Bench(
        lambda view: [Throttle(percent=asked[view.elapsed_ns // S], reason="so")],
        CAN | Body.PER_VCPU,
        throttle_writers=True,
    )
    answers = [bench.look(second, MIB * second, SyncSeen(1, 100, (100, 1))) for second in asked]
    throttles = [action for (action,) in answers if isinstance(action, Throttle)]
    assert [throttle.vcpu_percents for throttle in throttles] == [(41, 0), (61, 0), None]
    assert [throttle.asked_percent for throttle in throttles] == [40, 60, None]
    assert [view.throttle_percent for view in bench.policy.seen] == [0, 40, 60], "it sees what it asked for"


def test_spreading_where_vcpus_cannot_be_slowed_one_by_one_is_refused() -> None:
    with pytest.raises(UsageError, match="cpu-throttle-writers: vCPUs cannot be slowed one by one here; set it to off"):
        Bench(throttle_writers=True)


def test_a_policy_that_cannot_be_made_is_named() -> None:
    kind = PolicyKind("unmade", lambda: fails(None), NoSettings, Body.THROTTLE, "")  # type: ignore[arg-type, return-value]
    with pytest.raises(PolicyError, match="the policy 'unmade' is broken: it cannot be made, ZeroDivisionError"):
        Convergence(kind, Body.THROTTLE, Watcher(), LinkWatch(S), Ledger(), sensed(0))


def test_a_policy_that_needs_more_than_a_body_can_do_is_refused_before_anything_begins() -> None:
    kind = PolicyKind("downtimes", lambda: Scripted(lambda view: ()), NoSettings, Body.DOWNTIME_LIMIT, "")
    with pytest.raises(UsageError, match="'downtimes' cannot be used here: it needs downtime_limit"):
        Convergence(kind, Body.THROTTLE, Watcher(), LinkWatch(S), Ledger(), sensed(0))


@given(st.lists(st.tuples(st.integers(0, 3 * S), st.integers(0, MIB), st.integers(0, MIB)), max_size=50))
def test_every_byte_found_and_sent_is_in_one_period(course: list[tuple[int, int, int]]) -> None:
    bench, now_ns, sent_bytes = Bench(), 0, 0
    actions: list[Action] = []
    for step_ns, dirty_bytes, more_bytes in course:
        now_ns, sent_bytes = now_ns + step_ns, sent_bytes + more_bytes
        actions += bench.look(now_ns / S, sent_bytes, SyncSeen(dirty_bytes))
    actions += bench.look(now_ns / S + 2, sent_bytes, SyncSeen(0))
    periods = [action.period for action in actions if isinstance(action, Throttle) and action.period]
    assert sum(period.dirty_bytes for period in periods) == sum(dirty for _, dirty, _ in course)
    assert sum(period.sent_bytes for period in periods) == sent_bytes
