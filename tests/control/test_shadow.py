"""A policy in the shadow of a modelled QEMU's own auto-converge, in virtual time: it decides, and nothing is done."""

from typing import Any

import pytest

from tests.support.shadows import migrated_with_shadow
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.convergence.policies.planned import Planned
from vmferry.convergence.variants import PLANNED
from vmferry.migration.events import Decided, Ended, Event, Shadowed, ThrottleSeen
from vmferry.report.journal_runs import run_series
from vmferry.report.text_report import text_report
from vmferry.simulation.qemu.monitor import ModelledMonitor
from vmferry.simulation.qemu.releases import RELEASES

RESPONSIVE = "background-sync+responsive-throttle"


def shadowed(
    release: str, variant: str | None, rate: str = "1GB/s", limits: Limits = NO_LIMITS
) -> tuple[list[Event], list[str]]:
    """What is recorded of a migration that QEMU's auto-converge brings about, and what is told of the shadow."""
    entries, told = migrated_with_shadow(release, variant, rate, limits)
    report = text_report([run_series(entries, "")])
    assert all(len(line) <= 80 for line in report.splitlines())
    would = [entry.event for entry in entries if isinstance(entry.event, Shadowed)]
    assert ("What a policy that only looked on would have done" in report) == bool(would)
    return [entry.event for entry in entries], told


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("variant", [PLANNED.name, RESPONSIVE, "kubevirt"])
def test_a_shadow_only_asks(release: str, variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    execute = ModelledMonitor.execute

    def noted(self: ModelledMonitor, command: str, arguments: Any = None) -> Any:
        asked.append(command)
        return execute(self, command, arguments)

    monkeypatch.setattr(ModelledMonitor, "execute", noted)
    events, _ = shadowed(release, variant)
    assert any(isinstance(event, Shadowed) for event in events)
    told = [command for command in asked if not command.startswith("query-")]
    assert told == ["migrate-set-capabilities", "migrate-set-parameters", "migrate"], "those of the test itself"


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_shadow_would_do_is_told_and_recorded_long_before_it_is_done(release: str) -> None:
    events, told = shadowed(release, PLANNED.name)
    would = [event for event in events if isinstance(event, Shadowed)]
    assert isinstance(events[-1], Ended)
    assert would[0].what == "Throttle"
    assert (would[0].throttle_percent or 0) > 50
    assert all(event.variant == PLANNED.name for event in would)
    assert not any(isinstance(event, Decided) for event in events), "nothing was decided"
    really = [event for event in events if isinstance(event, ThrottleSeen) and event.throttle_percent > 50]
    assert events.index(would[0]) < events.index(really[0])
    assert len([line for line in told if "planned would do: " in line]) == len(would)


def test_nothing_is_told_of_a_guest_that_a_shadow_would_leave_alone() -> None:
    events, told = shadowed("qemu-7.2", PLANNED.name, rate="1MB/s")
    assert not [event for event in events if isinstance(event, Shadowed)]
    assert told == []


def test_a_shadow_that_is_broken_does_not_end_the_looking_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(self: Planned, view: object, settings: object) -> list[object]:
        raise ValueError("oh")

    monkeypatch.setattr(Planned, "look", look)
    events, told = shadowed("qemu-10", PLANNED.name)
    assert isinstance(events[-1], Ended)
    assert [line for line in told if "looking on without a shadow" in line and "oh" in line]


def test_a_shadow_keeps_the_limits_of_its_rule() -> None:
    bounded, free = (
        [event for event in shadowed("qemu-10", RESPONSIVE, limits=limits)[0] if isinstance(event, Shadowed)]
        for limits in (Limits(max_throttle_percent=30, deadline_ns=5_000_000_000), NO_LIMITS)
    )
    highest = [max(event.throttle_percent or 0 for event in events) for events in (bounded, free)]
    assert highest[0] == 30 < highest[1]
    assert "Cancel" in {event.what for event in bounded}
    assert "Cancel" not in {event.what for event in free}
