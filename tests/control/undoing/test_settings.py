"""What was changed is put back, unless somebody else has changed it meanwhile; what cannot be is named."""

import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest

from tests.support.fake_qemu import FakeQemu
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.undoing.changes import Change
from vmferry.control.undoing.leftovers import Leftovers
from vmferry.control.undoing.settings import Settings
from vmferry.errors import CancelledError, CommandError, MonitorError, VmLeftError
from vmferry.simulation.clock import VirtualClock


def changed(qemu: FakeQemu, left: list[tuple[list[Change], bool]]) -> Settings:
    settings = Settings(
        qemu, VirtualClock(), DrivenVm.ask(qemu), lambda changes, refused: left.append((changes, refused))
    )
    settings.set_parameters({"downtime-limit": 1, "max-bandwidth": 5})
    settings.set_parameters({"downtime-limit": 2000})
    settings.set_capability("auto-converge", True)
    return settings


def test_what_was_set_twice_is_what_it_was_before() -> None:
    qemu = FakeQemu([])
    before = dict(qemu.parameters), dict(qemu.capabilities)
    left: list[tuple[list[Change], bool]] = []
    with changed(qemu, left):
        assert (qemu.parameters["downtime-limit"], qemu.capabilities["auto-converge"]) == (2000, True)
    assert (qemu.parameters, qemu.capabilities) == before
    assert left == []


@pytest.mark.parametrize("name", ["downtime-limit", "max-bandwidth"])
def test_what_somebody_else_has_set_meanwhile_is_theirs(name: str) -> None:
    qemu = FakeQemu([])
    before = dict(qemu.parameters)
    with changed(qemu, []):
        qemu.parameters[name] = 77
    assert qemu.parameters == before | {name: 77}


def test_a_capability_that_is_as_before_already_is_left_alone() -> None:
    qemu = FakeQemu([])
    with changed(qemu, []):
        qemu.capabilities["auto-converge"] = False
        qemu.told.clear()
    assert "migrate-set-capabilities" not in [name for name, _ in qemu.told]


@pytest.mark.parametrize("refusals", [3, 1000])
def test_a_vm_that_refuses_is_asked_again_and_in_the_end_named(refusals: int) -> None:
    """As QEMU does while a migration that was cancelled has not ended."""
    qemu = FakeQemu([])
    refused: list[str] = []

    def during(command: str) -> None:
        if command == "migrate-set-capabilities" and len(refused) < refusals:
            refused.append(command)
            raise CommandError("There's a migration process in progress", "GenericError")

    left: list[tuple[list[Change], bool]] = []
    with changed(qemu, left):
        qemu.during = during
    assert qemu.parameters["downtime-limit"] == 300
    assert left == ([] if refusals == 3 else [([Change("auto-converge", False, True, is_capability=True)], True)])


@pytest.mark.parametrize("dies_inside", [False, True])
def test_what_a_vm_that_does_not_answer_keeps_is_named(dies_inside: bool) -> None:
    def dead(command: str) -> None:
        raise MonitorError("no answer")

    qemu = FakeQemu([])
    left: list[tuple[list[Change], bool]] = []
    with suppress(MonitorError), changed(qemu, left):
        qemu.during = dead
        if dies_inside:
            qemu.execute("query-status")
    [(changes, refused)] = left
    assert ({change.name for change in changes}, refused) == (
        {"downtime-limit", "max-bandwidth", "auto-converge"},
        False,
    )


def test_what_a_vm_refuses_to_take_back_at_once_is_put_back_at_the_end() -> None:
    qemu = FakeQemu([])
    before = dict(qemu.parameters)

    def refuse(command: str) -> None:
        if command == "migrate-set-parameters":
            raise CommandError("no", "GenericError")

    with changed(qemu, []) as settings:
        qemu.during = refuse
        settings.give_back(["max-bandwidth"])
        qemu.during = lambda command: None
        assert qemu.parameters["max-bandwidth"] == 5
    assert qemu.parameters == before


class Interrupted(FakeQemu):
    """Carries out what it is told, and then nobody waits for the answer."""

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        answer = super().execute(command, arguments)
        if command.startswith("migrate-set") and len(self.told) == 1:
            raise CancelledError("interrupted")
        return answer


@pytest.mark.parametrize("set_one", [lambda it: it.set_parameters({"max-bandwidth": 5}),
                                     lambda it: it.set_capability("auto-converge", True)])  # fmt: skip
def test_what_was_set_although_nobody_waited_for_the_answer_is_put_back(set_one: Callable[[Settings], None]) -> None:
    qemu = Interrupted([])
    before = dict(qemu.parameters), dict(qemu.capabilities)
    with suppress(CancelledError), Settings(qemu, VirtualClock(), DrivenVm.ask(qemu)) as settings:
        set_one(settings)
    assert len(qemu.told) == 2
    assert (qemu.parameters, qemu.capabilities) == before


def test_on_a_vm_that_has_left_nothing_is_missing() -> None:
    def gone(command: str) -> None:
        raise VmLeftError("has migrated")

    qemu = FakeQemu([])
    left: list[tuple[list[Change], bool]] = []
    with suppress(VmLeftError), changed(qemu, left):
        qemu.during = gone
        qemu.execute("query-status")
    assert left == []


def test_what_is_left_is_named_with_the_command_that_does_it() -> None:
    told: list[str] = []
    leftovers = Leftovers(FakeQemu([]), told.append)
    leftovers.leave([Change("downtime-limit", 300, 1), Change("auto-converge", True, False, is_capability=True)], False)
    assert [json.loads(command)["execute"] for command in leftovers.commands] == [
        "migrate-set-parameters",
        "migrate-set-capabilities",
    ]
    assert json.loads(leftovers.commands[0])["arguments"] == {"downtime-limit": 300}
    assert all(command in line for command, line in zip(leftovers.commands, told, strict=True))
    assert told[0].startswith("downtime-limit may not be put back, as the VM does not answer; by hand: ")
