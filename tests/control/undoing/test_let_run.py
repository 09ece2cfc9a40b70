"""The guard lets a guest run that the driver held, if it is certain that there is no other copy."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.support.fake_qemu import FakeQemu, answer
from vmferry.control.undoing.let_run import LetRun
from vmferry.control.undoing.way_in import WayIn
from vmferry.errors import MonitorError


class Way(WayIn):
    """Leads to a fake, or to nobody."""

    def __init__(self, qemu: FakeQemu, *, known: bool = True) -> None:
        super().__init__("unix:/nowhere", None, None)
        self.qemu: FakeQemu | None = qemu
        self.known = known

    @property
    def vm_is_gone(self) -> bool:
        return self.qemu is None

    @property
    def vm_is_known(self) -> bool:
        return self.known

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        if self.qemu is None:
            raise MonitorError("gone")
        return self.qemu.execute(command, arguments)


def source(*statuses: str, run_state: str = "running") -> Way:
    qemu = FakeQemu([answer(status) for status in statuses])
    qemu.run_state = run_state
    qemu.begin()
    return Way(qemu)


def destination(run_state: str = "paused") -> Way:
    qemu = FakeQemu([])
    qemu.run_state = run_state
    return Way(qemu)


def told(way: Way) -> list[str]:
    assert way.qemu
    return [command for command, _ in way.qemu.told]


@pytest.mark.parametrize("has_run", [True, False])
def test_it_waits_for_the_sources_word(has_run: bool) -> None:
    there = destination()
    step = LetRun(source("setup", "active", "device", "completed", run_state="finish-migrate"), there, has_run)
    assert [step.attempt() for _ in range(4)] == [False, False, False, True]
    assert told(there) == ["cont"] * has_run


def test_it_notices_that_somebody_pauses_the_guest() -> None:
    there = destination()
    step = LetRun(source("active", "completed", run_state="paused"), there, True)
    assert [step.attempt(), step.attempt()] == [False, True]
    assert told(there) == []


@pytest.mark.parametrize("status", ["failed", "cancelled", "none"])
def test_nothing_runs_if_the_source_runs_on(status: str) -> None:
    there = destination()
    assert LetRun(source("active", status), there, True).attempt() is False
    step = LetRun(source(status), there, True)
    assert step.attempt()
    assert told(there) == []


@pytest.mark.parametrize(
    ("known", "run_state", "done", "expected"),
    [(True, "paused", True, ["cont"]), (True, "inmigrate", False, []), (False, "paused", False, [])],
)
def test_a_guest_that_is_there_runs_if_the_source_has_ended_for_certain(
    known: bool, run_state: str, done: bool, expected: list[str]
) -> None:
    here, there = source("active"), destination(run_state)
    step = LetRun(here, there, True)
    here.qemu, here.known = None, known
    assert step.attempt() is done
    assert told(there) == expected


def test_a_destination_that_has_ended_too_is_left() -> None:
    here, there = source("active"), destination()
    here.qemu = there.qemu = None
    assert LetRun(here, there, True).attempt()


def test_what_a_person_does_depends_on_the_source() -> None:
    text = LetRun(source("active"), destination(), True).by_hand()
    assert text.startswith("once the source says completed, send ")
    assert "cont" in text
