"""What other systems do, done by the shipped engine in virtual time: at the times and iterations of their originals."""

from collections.abc import Iterator

import msgspec
import pytest

from tests.support.known import known
from vmferry.convergence.policies.nova import NovaSettings, downtime_steps
from vmferry.convergence.policies.pause_resume import PauseResumeSettings, throttle_percent
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.events import Acted, Decided, Synced
from vmferry.simulation.run import SimulationResult, simulate

S = 1_000_000_000
LOOK_S = 0.11
"""The engine looks ten times per second."""

HOPELESS = parse_scenario(
    b"""
    name = "hopeless"
    guest = { memory = "64M", vcpus = 2, loads = [{ pattern = "sweep", memory = "40M", write-rate = "40GiB/s" }] }
    link = { rate = "20MiB/s" }
    """,
    "hopeless",
)
"""Not even a throttle of 99 % helps: every iteration sends 40 MiB, in 2 s."""


def run(variant: str, settings: str = "", scenario: Experiment = HOPELESS, **parameters: int | str) -> SimulationResult:
    given = {name.replace("_", "-"): value for name, value in parameters.items()}
    if settings:
        given["policy-settings"] = settings
    return simulate(msgspec.structs.replace(scenario, parameters=scenario.parameters | given), variant)


def limits_of(result: SimulationResult) -> list[tuple[float, int]]:
    """Return when which downtime limits were set, in s and ms."""
    return [
        (entry.time_ns / S, entry.event.downtime_limit_ns // 1_000_000)
        for entry in result.entries
        if isinstance(entry.event, Acted) and entry.event.downtime_limit_ns is not None
    ]


def end_of(result: SimulationResult) -> tuple[str, str]:
    """Return the last action that was no limit."""
    ends = [entry.event for entry in result.entries if isinstance(entry.event, Acted)]
    return ends[-1].what, ends[-1].reason


def throttles_by_iteration(result: SimulationResult) -> Iterator[tuple[int, int]]:
    iteration_count = 0
    for entry in result.entries:
        if isinstance(entry.event, Synced):
            iteration_count = entry.event.iteration_count
        elif isinstance(entry.event, Decided):
            yield iteration_count, entry.event.throttle_percent


def test_nova_steps_at_the_times_of_its_formula_and_gives_up() -> None:
    result = run("nova", "downtime=900,downtime_steps=3,downtime_delay=3,completion_timeout=15")
    steps = downtime_steps(NovaSettings(downtime=900, downtime_steps=3, downtime_delay=3), 2.0)
    limits = limits_of(result)
    assert [limit_ms for _, limit_ms in limits] == [limit_ms for _, limit_ms in steps] == [300, 500, 700, 900]
    assert [time_s for time_s, _ in limits] == pytest.approx([time_s for time_s, _ in steps], abs=LOOK_S)
    assert (result.status, result.error) == ("cancelled", "not completed in 30 s")
    assert end_of(result) == ("Cancel", "not completed in 30 s")
    assert known(result.total_time_ms) / 1000 == pytest.approx(30, abs=LOOK_S)


def test_nova_forces_an_overdue_guest_to_move() -> None:
    result = run("nova", "completion_timeout=15,timeout_action=force_complete")
    assert result.status == "completed"
    assert end_of(result) == ("SwitchOver", "not completed in 30 s, forced")
    assert 1000 < known(result.downtime_ms) < 2100
    assert known(result.total_time_ms) - known(result.downtime_ms) == pytest.approx(30_000, abs=2100)


def test_ovirt_makes_a_step_at_each_look_and_gives_up_after_the_last() -> None:
    result = run("ovirt")
    limits = limits_of(result)
    assert [limit_ms for _, limit_ms in limits] == [100, 150, 200, 300, 400, 500]
    assert [time_s for time_s, _ in limits] == pytest.approx([0, 20, 30, 40, 50, 60], abs=6 * LOOK_S)
    assert result.status == "cancelled"
    assert known(result.total_time_ms) / 1000 == pytest.approx(70, abs=7 * LOOK_S)


def test_ovirts_other_policy_suspends_the_guest_for_up_to_five_seconds() -> None:
    result = run("ovirt-suspend")
    assert limits_of(result)[-1][1] == 5000
    assert result.status == "completed"
    assert 1000 < known(result.downtime_ms) < 2100


def test_proxmox_doubles_until_the_guest_moves() -> None:
    result = run("proxmox")
    limits = [limit_ms for _, limit_ms in limits_of(result)]
    assert limits == [100 * 2**number for number in range(len(limits))]
    assert result.status == "completed"
    assert limits[-2] < known(result.downtime_ms) <= limits[-1]


def test_kubevirt_gives_a_stalled_migration_up_if_the_rest_is_far_too_large() -> None:
    result = run("kubevirt", "completion_timeout_per_gib_s=86400")
    assert result.status == "cancelled"
    what, reason = end_of(result)
    assert what == "Cancel"
    assert reason.startswith("it has stalled where the rest needs ")
    assert 40 < known(result.total_time_ms) / 1000 < 50


def test_kubevirt_moves_it_if_its_work_may_be_disrupted() -> None:
    result = run("kubevirt-disruptive", "completion_timeout_per_gib_s=86400,allow_workload_disruption=true")
    assert result.status == "completed"
    assert limits_of(result)[-1][1] == 2_000_000
    assert 1000 < known(result.downtime_ms) < 2100
    assert 40 < known(result.total_time_ms) / 1000 < 50


def test_kubevirts_ramp_lets_a_guest_move_whose_rest_is_a_little_too_large() -> None:
    scenario = parse_scenario(
        b"""
        name = "ramped"
        guest = { memory = "1G", vcpus = 2, used-memory = "64M", loads = [
            { pattern = "sweep", memory = "12M", write-rate = "40GiB/s" } ] }
        link = { rate = "20MiB/s" }
        """,
        "ramped",
    )
    ramp = run("kubevirt", "stall_detection=false", scenario)
    assert ramp.status == "completed"
    assert [limit_ms for _, limit_ms in limits_of(ramp)] == [150, 257, 364, 471, 578, 685]
    assert 550 < known(ramp.downtime_ms) <= 685
    both = run("kubevirt", scenario=scenario)
    assert both.status == "completed"
    assert [limit_ms for _, limit_ms in limits_of(both)] == [150, 257, 364, 471, 900]
    assert known(both.total_time_ms) < known(ramp.total_time_ms)
    assert run("nova", scenario=scenario).status == "cancelled"


def test_a_fork_of_cloud_hypervisor_steps_up_with_every_second_iteration() -> None:
    result = run("pause-resume")
    steps = dict(throttles_by_iteration(result))
    settings = PauseResumeSettings()
    assert all(percent == throttle_percent(iteration_count, settings) for iteration_count, percent in steps.items())
    assert (steps[5], steps[6], steps[8]) == (0, 10, 20)
    assert result.max_throttle_percent == 99
