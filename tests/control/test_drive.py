"""Driving a migration: what is made of the answers. Whole migrations are in tests/end_to_end."""

from collections.abc import Iterator
from signal import SIGINT, raise_signal
from typing import Any

import pytest

from vmferry.control import drive as module
from vmferry.control.drive import drive
from vmferry.control.interrupts import interrupted_once


class Answers:
    """A monitor that answers `query-migrate` with these in turn; real QEMU cannot be made to hit the gap."""

    manager = None

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers: Iterator[dict[str, Any]] = iter(answers)

    def execute(self, command: str, arguments: object = None) -> dict[str, Any]:
        return next(self._answers) if command == "query-migrate" else {}


def test_figures_that_come_a_moment_after_the_end_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU sets the state first and works out the times then."""
    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0)
    early = {"status": "completed", "total-time": 0, "downtime": 0}
    final = {"status": "completed", "total-time": 1234, "downtime": 56}
    result = drive(Answers({"status": "active"}, early, early, final), "tcp:h:1", lambda progress: None)  # type: ignore[arg-type]
    assert (result.last.elapsed_ms, result.last.downtime_ms) == (1234, 56)


def test_figures_that_never_come_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_INTERVAL_S", 0)
    result = drive(Answers(*[{"status": "completed"}] * 20), "tcp:h:1", lambda progress: None)  # type: ignore[arg-type]
    assert result.completed


def test_what_is_done_after_the_end_is_not_interrupted() -> None:
    """Or else it would be said that the guest had not migrated."""
    with interrupted_once():
        result = drive(Answers({"status": "completed", "total-time": 1}), "tcp:h:1", lambda progress: None)  # type: ignore[arg-type]
        raise_signal(SIGINT)
    assert result.completed
