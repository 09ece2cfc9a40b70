"""Whatever is said and happens in whatever order, the guest runs only while it is ours to run."""

from typing import Any

import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from vmferry.errors import GuestError, UsageError
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.vm_port import RunState
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.vm.event_feed import EventFeed
from vmferry.vm.run_control import RunControl

S = MigrationStatus
OURS = {RunState.RUNNING, RunState.PAUSED}


class CrashingGuest(MemoryGuest):
    crash: str | None = None
    panicked = False

    def resume(self) -> None:
        if self.crash:
            raise GuestError(self.crash)
        super().resume()


class Leaving:
    """An outgoing migration that is where the test says."""

    def __init__(self) -> None:
        self.status = S.ACTIVE
        self.keeps_paused = False

    def keep_paused(self) -> None:
        self.keeps_paused = True

    def take_back(self) -> None:
        self.status = S.FAILED


class Runs(RuleBasedStateMachine):
    """The model: whether the guest is to run, and whose it is."""

    def __init__(self) -> None:
        super().__init__()
        self.guest = CrashingGuest(8, running=False)
        self.events: list[str] = []
        feed = EventFeed(self.guest)
        feed.subscribe(lambda event: self.events.append(event.name))
        self.control = RunControl(self.guest, feed, awaits_guest=False, start_paused=False)
        self.leaving: Leaving | None = None
        self.wants_to_run = False

    @rule()
    def stop(self) -> None:
        self.control.stop()
        self.wants_to_run = False
        if self.control.state() is RunState.FINISH_MIGRATE:
            assert self.leaving
            assert self.leaving.keeps_paused
        else:
            assert not self.guest.running

    @rule()
    def cont(self) -> None:
        if self.control.state() in OURS:
            self.control.cont()
            assert self.guest.running
            self.wants_to_run = True
        else:
            with pytest.raises(UsageError):
                self.control.cont()

    @rule()
    def begin_to_leave(self) -> None:
        status = self.leaving.status if self.leaving else S.NONE
        if status.is_running or status in (S.COMPLETED, S.IN_DOUBT):
            with pytest.raises(UsageError):
                self.control.check_may_leave()
        else:
            self.control.check_may_leave()
            self.leaving = Leaving()
            self.control.leave_by(self.leaving)

    @precondition(lambda self: self.leaving and self.leaving.status is S.ACTIVE)
    @rule()
    def stand_still_for_the_hand_over(self) -> None:
        assert self.leaving
        self.control.note_hand_over(begun=True)
        self.leaving.status = S.DEVICE
        self.guest.running = False

    @precondition(lambda self: self.leaving and self.leaving.status is S.DEVICE)
    @rule()
    def the_hand_over_fails(self) -> None:
        assert self.leaving
        self.leaving.status = S.FAILED
        self.guest.running = self.wants_to_run and not self.leaving.keeps_paused
        self.control.note_hand_over(begun=False)

    @precondition(lambda self: self.leaving and self.leaving.status is S.DEVICE)
    @rule()
    def the_guest_leaves(self) -> None:
        assert self.leaving
        self.leaving.status = S.COMPLETED
        self.control.note_hand_over(begun=False)

    @precondition(lambda self: self.leaving and self.leaving.status is S.DEVICE)
    @rule()
    def the_guest_may_have_left(self) -> None:
        assert self.leaving
        self.leaving.status = S.IN_DOUBT
        self.control.note_hand_over(begun=False)

    @precondition(lambda self: self.leaving and self.leaving.status is S.IN_DOUBT)
    @rule()
    def somebody_has_looked(self) -> None:
        self.control.cont(force=True)
        assert self.guest.running
        self.wants_to_run = True

    @invariant()
    def it_runs_only_while_it_is_ours(self) -> None:
        state = self.control.state()
        assert self.guest.running == (state is RunState.RUNNING)
        if self.leaving and self.leaving.status in (S.COMPLETED, S.IN_DOUBT):
            assert state in (RunState.POSTMIGRATE, RunState.IN_DOUBT)

    @invariant()
    def stop_and_resume_are_told_in_turn(self) -> None:
        assert self.events == (["RESUME", "STOP"] * len(self.events))[: len(self.events)]


TestRuns: Any = Runs.TestCase
TestRuns.settings = settings(max_examples=150, stateful_step_count=25, deadline=None)


def arriving(*, start_paused: bool = False) -> tuple[RunControl, CrashingGuest]:
    guest = CrashingGuest(8, running=False)
    control = RunControl(guest, EventFeed(guest), awaits_guest=True, start_paused=start_paused)
    return control, guest


def arrive(control: RunControl, guest: CrashingGuest, *, runs_at_source: bool) -> None:
    """What the engine and then the VM do at a destination."""
    assert control.state() is RunState.INMIGRATE
    assert not guest.running
    with pytest.raises(UsageError, match="waiting for an incoming migration"):
        control.check_may_leave()
    if runs_at_source and control.may_run_on_arrival:
        guest.resume()
    control.take_in()


@pytest.mark.parametrize("runs_at_source", [False, True])
@pytest.mark.parametrize("start_paused", [False, True])
@pytest.mark.parametrize("said", [(), ("stop",), ("cont",), ("cont", "stop"), ("stop", "cont")])
def test_a_guest_that_comes_does_what_was_said_last(
    said: tuple[str, ...], start_paused: bool, runs_at_source: bool
) -> None:
    control, guest = arriving(start_paused=start_paused)
    for word in said:
        getattr(control, word)()
    arrive(control, guest, runs_at_source=runs_at_source)
    wanted = said[-1] == "cont" if said else runs_at_source and not start_paused
    assert guest.running is wanted
    assert control.state() is (RunState.RUNNING if wanted else RunState.PAUSED)


def test_a_guest_that_crashed_when_it_came_is_here_all_the_same() -> None:
    control, guest = arriving()
    control.cont()
    guest.crash = "it crashed"
    with pytest.raises(GuestError):
        control.take_in()
    assert not control.awaits_guest
    assert control.state() is RunState.INTERNAL_ERROR
    guest.panicked = True
    assert control.state() is RunState.GUEST_PANICKED
    with pytest.raises(UsageError, match="has crashed"):
        control.cont()
