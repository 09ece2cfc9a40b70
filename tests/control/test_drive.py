"""Driving a migration: what is made of the answers. Whole migrations are in tests/end_to_end."""

from collections.abc import Iterator
from typing import Any

from vmferry.cancel import CancelToken
from vmferry.control.drive import drive
from vmferry.simulation.clock import VirtualClock


class Answers:
    """A monitor that answers `query-migrate` with these in turn; real QEMU cannot be made to hit the gap."""

    manager = None

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers: Iterator[dict[str, Any]] = iter(answers)

    def execute(self, command: str, arguments: object = None) -> dict[str, Any]:
        return next(self._answers) if command == "query-migrate" else {}


def test_figures_that_come_a_moment_after_the_end_are_waited_for() -> None:
    """QEMU sets the state first and works out the times then."""
    early = {"status": "completed", "total-time": 0, "downtime": 0}
    final = {"status": "completed", "total-time": 1234, "downtime": 56}
    result = drive(Answers({"status": "active"}, early, early, final), "tcp:h:1", lambda progress: None, VirtualClock())  # type: ignore[arg-type]
    assert (result.last.elapsed_ms, result.last.downtime_ms) == (1234, 56)


def test_figures_that_never_come_are_not_waited_for() -> None:
    result = drive(Answers(*[{"status": "completed"}] * 20), "tcp:h:1", lambda progress: None, VirtualClock())  # type: ignore[arg-type]
    assert result.completed


def test_what_is_done_after_the_end_is_not_interrupted() -> None:
    """Or else it would be said that the guest had not migrated."""
    cancel = CancelToken()
    answers = Answers({"status": "completed", "total-time": 1})
    result = drive(answers, "tcp:h:1", lambda progress: None, VirtualClock(), cancel)  # type: ignore[arg-type]
    cancel.set("interrupted", 2)
    cancel.check()
    assert (result.completed, result.interrupted_by) == (True, None)
