"""Who is asked whether a guest has arrived, and what is made of the answer."""

from collections.abc import Mapping

import pytest

from tests.support.fake_qemu import FakeQemu, answer
from vmferry.control.arriving.arrival import arrival_of, ask_for_word
from vmferry.control.arriving.destination import Destination
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Arrival, Result
from vmferry.control.undoing.settings import Settings
from vmferry.errors import MonitorError, UsageError
from vmferry.simulation.clock import VirtualClock

COMPLETED = Result(Progress.from_qmp(answer("completed")), 0)


def judged(capabilities: Mapping[str, bool], other: FakeQemu | None = None, **parameters: object) -> tuple[str, str]:
    driven = DrivenVm.ask(FakeQemu([], **parameters))
    arrival = arrival_of(COMPLETED, driven, capabilities, None, Destination(other, VirtualClock()) if other else None)
    assert arrival
    return str(arrival.state), arrival.by


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"return-path": True}, ("verified", "return-path")),
        ({"postcopy-ram": True}, ("verified", "return-path")),
        ({"return-path": False, "events": True}, ("unverified", "nobody")),
        ({}, ("unverified", "nobody")),
    ],
)
def test_a_source_that_heard_nothing_proves_nothing(capabilities: dict[str, bool], expected: tuple[str, str]) -> None:
    assert judged(capabilities) == expected


def test_our_own_protocol_is_proof() -> None:
    assert judged({}, cpu_responsive_throttle=True) == ("verified", "protocol")


@pytest.mark.parametrize(
    ("run_state", "expected"),
    [
        ("running", ("verified", "destination")),
        ("paused", ("verified", "destination")),
        ("inmigrate", ("unverified", "destination")),
        (None, ("unverified", "nobody")),
    ],
)
def test_the_destinations_word_counts_most(run_state: str | None, expected: tuple[str, str]) -> None:
    other = FakeQemu([])
    if run_state is None:
        other.during = gone
    else:
        other.run_state = run_state
    assert judged({"return-path": True}, other) == expected


def gone(command: str) -> None:
    raise MonitorError("closed the connection")


def test_a_migration_that_did_not_complete_has_nothing_to_verify() -> None:
    failed = Result(Progress.from_qmp(answer("failed")), 0)
    assert arrival_of(failed, DrivenVm.ask(FakeQemu([])), {"return-path": True}, None, None) is None


def test_a_destination_that_does_not_wait_is_refused() -> None:
    with pytest.raises(UsageError, match="is 'running' and waits for no guest"):
        Destination(FakeQemu([]), VirtualClock()).require_waiting()


@pytest.mark.parametrize(
    ("uri", "asked"),
    [
        ("tcp:h:1", True),
        ("unix:/x", True),
        ("vsock:2:3", True),
        ("exec:cat", False),
        ("fd:x", False),
        ("file:/x", False),
    ],
)
def test_a_return_path_is_asked_for_only_where_something_can_come_back(uri: str, asked: bool) -> None:
    qemu = FakeQemu([])
    qemu.capabilities["return-path"] = False
    with Settings(qemu, VirtualClock(), driven := DrivenVm.ask(qemu)) as settings:
        ask_for_word(driven, settings, uri)
        assert qemu.capabilities["return-path"] is asked
        assert settings.capabilities["return-path"] is asked
    assert qemu.capabilities["return-path"] is False


def test_an_arrival_is_told_in_words() -> None:
    arrival = arrival_of(COMPLETED, DrivenVm.ask(FakeQemu([])), {}, None, None)
    assert isinstance(arrival, Arrival)
    assert "--destination-qmp" in arrival.text
