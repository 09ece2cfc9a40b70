"""A guest that is held at its destination is let run once, as it ran before, and only if the source has completed."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.fake_qemu import FakeQemu, answer
from vmferry.cancel import CancelToken
from vmferry.control.arriving.arrival import arrival_of
from vmferry.control.arriving.destination import Destination
from vmferry.control.arriving.held import HeldDestination
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import ArrivalState, Result
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.errors import CancelledError, CommandError, MonitorError
from vmferry.simulation.clock import VirtualClock

AT_THE_END = answer("device", remaining=0)


@pytest.fixture
def other() -> FakeQemu:
    other = FakeQemu([])
    other.run_state = "inmigrate"
    return other


def migrated(
    qemu: FakeQemu, other: FakeQemu | None, lines: list[str] | None = None, clock: VirtualClock | None = None
) -> Result:
    """Migrate, with the monitor of the destination if there is one."""
    clock = clock or VirtualClock()
    order = Order(uri="unix:/x", destination=Destination(other, clock) if other else None)
    tell = (lines if lines is not None else []).append
    return carry_out(Ports(qemu, clock, CancelToken(), tell, tell), order, lambda progress: None)


def told(other: FakeQemu) -> list[str]:
    return [command for command, _ in other.told]


def test_a_guest_that_ran_is_let_run(other: FakeQemu) -> None:
    migrated(FakeQemu([answer(), AT_THE_END, answer("completed", 9, downtime=5)]), other)
    assert told(other) == ["stop", "cont"]


@pytest.mark.parametrize("state", ["paused", "io-error"])
def test_a_guest_that_stood_still_before_stays_so(other: FakeQemu, state: str) -> None:
    qemu = FakeQemu([answer(), answer("completed", 9)])
    qemu.run_state = state
    migrated(qemu, other)
    assert told(other) == ["stop"]


def test_a_guest_that_is_paused_on_the_way_stays_paused(other: FakeQemu) -> None:
    qemu = FakeQemu([answer(), answer(), answer("completed", 9)])
    states = iter(["running", "running", "running", "running", "paused"])
    qemu.during = lambda command: set_state(qemu, next(states, "finish-migrate")) if command == "query-status" else None
    migrated(qemu, other)
    assert told(other) == ["stop"]


def set_state(qemu: FakeQemu, state: str) -> None:
    qemu.run_state = state


@pytest.mark.parametrize("end", ["failed", "cancelled"])
def test_a_guest_that_runs_on_at_the_source_is_never_let_run(other: FakeQemu, end: str) -> None:
    lines: list[str] = []
    result = migrated(FakeQemu([answer(), AT_THE_END, answer(end)]), other, lines)
    assert told(other) == ["stop"]
    assert "the destination was not let run" in (result.last.error or "")
    assert "the destination will keep a guest paused; cont, while it waits, puts that back" in lines


def test_in_post_copy_the_guest_is_let_run_at_once(other: FakeQemu) -> None:
    during: list[list[str]] = []
    qemu = FakeQemu([answer(), answer("postcopy-active"), answer("postcopy-active"), answer("completed", 9)])
    qemu.during = lambda command: during.append(told(other)) if command == "query-migrate" else None
    migrated(qemu, other)
    assert told(other) == ["stop", "cont"]
    assert during[-2] == ["stop", "cont"]


def test_a_migration_that_is_refused_lets_nothing_run(other: FakeQemu) -> None:
    qemu = FakeQemu([])
    qemu.during = refuse
    with pytest.raises(CommandError):
        migrated(qemu, other)
    assert told(other) == ["stop"]


class Interrupted(FakeQemu):
    """Stops, and then nobody waits for the answer."""

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        answer = super().execute(command, arguments)
        if command == "stop":
            raise CancelledError("interrupted")
        return answer


def test_a_destination_that_was_told_although_nobody_waited_for_the_answer_is_named() -> None:
    other, lines = Interrupted([]), list[str]()
    other.run_state = "inmigrate"
    with pytest.raises(CancelledError):
        migrated(FakeQemu([]), other, lines)
    assert "the destination will keep a guest paused; cont, while it waits, puts that back" in lines


def test_a_destination_that_refuses_to_hold_is_left_as_it_was(other: FakeQemu) -> None:
    lines: list[str] = []
    other.during = refuse_to_stop
    with pytest.raises(CommandError):
        migrated(FakeQemu([]), other, lines)
    assert not any("keep a guest paused" in line for line in lines)


def refuse_to_stop(command: str) -> None:
    if command == "stop":
        raise CommandError("no", "GenericError")


def refuse(command: str) -> None:
    if command == "migrate":
        raise CommandError("no", "GenericError")


class Promises:
    """Stands for a guard."""

    def __init__(self) -> None:
        self.kept_ones: list[int] = []

    def will_let_run(self, destination: object, ran: bool) -> int:
        return 1

    def kept(self, promise: int) -> None:
        self.kept_ones.append(promise)


def test_what_the_driver_could_not_do_is_left_to_the_guard(other: FakeQemu) -> None:
    other.during = unreachable
    guard, lines, clock = Promises(), list[str](), VirtualClock()
    source = FakeQemu([answer("completed", 9)])
    source.begin()
    with HeldDestination(source, clock, Destination(other, clock), guard, lines.append) as held:  # type: ignore[arg-type]
        completed = Progress.from_qmp(answer("completed", 9) | {"downtime": 5})
        held.ended(completed)
        assert held.counted(Result(completed, 0)).last.downtime_ms is None
    assert guard.kept_ones == []
    assert "the guest was not let run at the destination" in lines[0]


def test_in_post_copy_a_destination_that_cannot_be_told_is_named_once(other: FakeQemu) -> None:
    other.during = unreachable
    lines: list[str] = []
    migrated(FakeQemu([answer(), *[answer("postcopy-active")] * 3, answer("failed")]), other, lines)
    assert sum("was not let run" in line for line in lines) == 1


def test_a_guest_that_could_not_be_let_run_is_no_success(other: FakeQemu) -> None:
    other.during = unreachable
    destination = Destination(other, VirtualClock())
    with pytest.raises(MonitorError):
        destination.let_run()
    other.run_state = "paused"
    arrival = arrival_of(Result(Progress.from_qmp(answer("completed")), 0), DrivenVm.ask(other), {}, None, destination)
    assert arrival
    assert arrival.state is ArrivalState.UNVERIFIED
    assert "cont there does it" in arrival.text


def unreachable(command: str) -> None:
    if command == "cont":
        raise MonitorError("no answer")


def test_the_wait_for_cont_is_downtime(other: FakeQemu) -> None:
    clock = VirtualClock()
    other.during = lambda command: clock.sleep_ns(7_000_000) if command == "cont" else None
    completed = answer("completed", 9) | {"downtime": 5}
    assert migrated(FakeQemu([answer(), completed]), other, clock=clock).last.downtime_ms == 12


def test_without_a_monitor_of_the_destination_two_copies_are_warned_of() -> None:
    qemu = FakeQemu([answer(), AT_THE_END, answer("failed")])
    result = migrated(qemu, None)
    assert "look whether the destination runs too before anything else" in (result.last.error or "")


def test_a_failure_before_the_guest_was_stopped_is_a_plain_one() -> None:
    qemu = FakeQemu([answer(), answer("failed")])
    result = migrated(qemu, None)
    assert "hand-over" not in (result.last.error or "")
