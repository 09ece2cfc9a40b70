"""The driver leaves a VM as it found it and tells the truth, under drawn faults; one that does not is found out."""

from collections.abc import Iterator

import pytest
from bench.chaos.driven import FaultyRun, run_one
from bench.chaos.driven_faults import AMishap, DrivenSettings

from vmferry.control import migrate
from vmferry.control.arriving.held import HeldDestination
from vmferry.control.undoing.settings import Settings
from vmferry.convergence.limits import OnLimit
from vmferry.simulation.qemu.monitor import Mishap
from vmferry.simulation.qemu.quota import ModelledQuota
from vmferry.study.modelled_place import ModelledPlace

SEED = 20260101
RUNS = 150
RESPONSIVE = "background-sync+responsive-throttle"


def violations(numbers: range = range(RUNS)) -> Iterator[str]:
    for number in numbers:
        yield from (f"{number}: {violation}" for violation in run_one(SEED, number).violations)


def test_whatever_happens_all_is_put_back_and_the_truth_is_told() -> None:
    assert list(violations()) == []


def faulty(number: int, mishap: Mishap, command: str | None = None, *, holds: bool = False) -> FaultyRun:
    fault = AMishap(mishap, number, command, 45_000)
    settings = DrivenSettings("qemu-7.2", RESPONSIVE, 24, holds, None, None, OnLimit.CANCEL, (fault,))
    run = FaultyRun(settings, seed=0)
    run.carry_out()
    return run


@pytest.mark.parametrize("mishap", Mishap)
def test_any_command_may_go_wrong(mishap: Mishap) -> None:
    """The first 60 commands prepare and begin the migration, and see it through its first polls."""
    for number in range(1, 61):
        run = faulty(number, mishap, holds=number % 2 == 0)
        assert run.has_fired, number
        assert list(run.violations()) == [], number


@pytest.mark.parametrize("command", ["calc-dirty-rate", "query-dirty-rate", "query-status", "migrate-set-parameters"])
@pytest.mark.parametrize("mishap", Mishap)
def test_and_so_may_those_that_steer(mishap: Mishap, command: str) -> None:
    for number in (1, 2, 4):
        run = faulty(number, mishap, command)
        assert list(run.violations()) == [], number


def is_found(complaint: str) -> bool:
    return any(complaint in violation for violation in violations(range(60)))


def test_a_quota_that_stays_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelledQuota, "release", lambda self: None)
    monkeypatch.setattr(ModelledPlace, "keep", lambda self, promises: None)
    assert is_found("a quota that takes")


def test_parameters_that_are_not_put_back_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Settings, "put_back", lambda self: None)
    monkeypatch.setattr(ModelledPlace, "keep", lambda self, promises: None)
    assert is_found("and nobody was told")


def test_a_destination_that_is_not_let_run_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldDestination, "ended", lambda self, progress: None)
    monkeypatch.setattr(ModelledPlace, "keep", lambda self, promises: None)
    assert is_found("the destination is paused")


def test_a_verdict_that_is_not_true_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "verdicts_on", lambda *facts: iter(()))
    assert is_found("ms of 1000 ms")
