"""The planning policy in virtual time, on the shipped engine."""

from typing import Any

import msgspec
import pytest

from tests.support.known import known
from vmferry.experiment.experiment import experiment_of
from vmferry.migration.events import Acted, Decided
from vmferry.simulation.run import SimulationResult, simulate

RESPONSIVE = "background-sync+responsive-throttle"


def migrated(variant: str, *, limit_ms: int = 500, rate: str = "200MB/s", **load: Any) -> SimulationResult:
    data = {
        "name": "guest",
        "guest": {"memory": "1G", "vcpus": 2, "loads": [{"pattern": "sweep", "memory": "800M", **load}]},
        "link": {"rate": rate},
        "parameters": {"downtime-limit": limit_ms},
        "limits": {"max-time": "300s"},
    }
    scenario = experiment_of(data)
    if variant == "planned":
        parameters = {**scenario.parameters, "convergence-policy": "planned"}
        scenario = msgspec.structs.replace(scenario, parameters=parameters)
        variant = "background-sync"
    return simulate(scenario, variant)


def throttles(result: SimulationResult) -> list[int]:
    return [entry.event.throttle_percent for entry in result.entries if isinstance(entry.event, Decided)]


@pytest.mark.parametrize(
    "load",
    [
        {"pattern": "idle"},
        {"write-rate": "20MB/s"},
        {"write-rate": "150MB/s"},
        {"pattern": "uniform", "write-rate": "60MB/s"},
        {"pattern": "hot-cold", "write-rate": "100MB/s"},
        {"memory": "60M", "write-rate": "5GB/s"},
    ],
    ids=str,
)
def test_a_guest_that_converges_by_itself_is_never_slowed(load: dict[str, Any]) -> None:
    result = migrated("planned", **load)
    assert result.status == "completed"
    assert set(throttles(result)) <= {0}


@pytest.mark.parametrize("write_rate", ["1GB/s", "2.7GB/s", "9GB/s"])
@pytest.mark.parametrize("pattern", ["sweep", "uniform"])
def test_a_busy_guest_is_moved_sooner_and_with_less_work_lost_than_by_any_ladder(pattern: str, write_rate: str) -> None:
    load: dict[str, Any] = {"pattern": pattern, "write-rate": write_rate}
    planned, ladder = migrated("planned", **load), migrated(RESPONSIVE, **load)
    assert planned.status == ladder.status == "completed"
    assert known(planned.total_time_ms) < 0.6 * known(ladder.total_time_ms)
    assert known(planned.work_lost_vcpu_s) < known(ladder.work_lost_vcpu_s)


def test_a_guest_whose_set_is_just_too_large_is_slowed_for_a_moment() -> None:
    load = {"pattern": "uniform", "memory": "10M", "write-rate": "50MB/s"}
    planned, ladder = (migrated(variant, limit_ms=300, rate="20MB/s", **load) for variant in ("planned", RESPONSIVE))
    assert planned.status == ladder.status == "completed"
    assert (planned.total_time_ms or 0) < 1.2 * (ladder.total_time_ms or 0)


def test_where_no_throttle_helps_it_is_said_and_the_guest_is_let_run() -> None:
    result = migrated("planned", pattern="uniform", limit_ms=100, rate="20MB/s", **{"write-rate": "9GB/s"})
    told = [entry for entry in result.entries if isinstance(entry.event, Acted)]
    assert len(told) == 1
    assert "no throttle up to 99 % makes this converge" in told[0].event.reason  # type: ignore[union-attr]
    assert told[0].time_ns < 10 * 10**9
    assert known(result.work_lost_percent) < 5
