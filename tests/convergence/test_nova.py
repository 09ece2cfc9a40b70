"""OpenStack nova's steps, at the times and with the limits that nova's own text gives as an example."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.looks import Looks
from vmferry.convergence.actions import Cancel, SwitchOver
from vmferry.convergence.policies.nova import Nova, NovaSettings, downtime_steps

GIB = 1 << 30
EXAMPLE = NovaSettings(downtime=400, downtime_steps=10, downtime_delay=30)
LIMITS_MS = [40, 76, 112, 148, 184, 220, 256, 292, 328, 364, 400]


def test_the_example_in_novas_text() -> None:
    assert downtime_steps(EXAMPLE, 3.0) == [(90 * step, limit) for step, limit in enumerate(LIMITS_MS)]


def test_each_limit_is_set_once_when_its_time_is_over() -> None:
    looks = Looks(Nova(), EXAMPLE)
    assert looks.at(0, memory_bytes=3 * GIB) == []
    set_at = {second: limit for second in range(1, 1000) if (limit := looks.limit_at(second)) is not None}
    assert set_at == {90 * step + 1: limit for step, limit in enumerate(LIMITS_MS)}


def test_a_look_that_comes_late_sets_only_the_last_limit_due() -> None:
    looks = Looks(Nova(), EXAMPLE)
    assert looks.limit_at(300, memory_bytes=3 * GIB) == LIMITS_MS[3]


def test_small_guests_count_as_two_gib() -> None:
    looks = Looks(Nova(), EXAMPLE)
    assert looks.limit_at(59, memory_bytes=GIB // 4) == 40
    assert looks.limit_at(60) is None
    assert looks.limit_at(60.1) == 76


@pytest.mark.parametrize(("action", "kind"), [("abort", Cancel), ("force_complete", SwitchOver)])
def test_an_overdue_migration_is_ended_once(action: str, kind: type) -> None:
    settings = NovaSettings(downtime_delay=86_400, completion_timeout=100, timeout_action=action)  # type: ignore[arg-type]
    looks = Looks(Nova(), settings)
    looks.at(1, memory_bytes=4 * GIB)
    assert looks.at(400) == []
    (end,) = looks.at(400.1)
    assert isinstance(end, kind)
    assert "not completed in 400 s" in end.reason
    assert looks.at(401) == []


def test_without_a_timeout_it_goes_on_for_ever() -> None:
    looks = Looks(Nova(), NovaSettings(completion_timeout=0))
    looks.at(1, memory_bytes=2 * GIB)
    looks.at(10_000)
    assert looks.at(10**9) == []


@given(st.integers(100, 2_000_000), st.integers(3, 1000), st.integers(3, 1000), st.floats(2, 1000))
def test_the_last_of_equal_steps_is_the_highest_downtime(downtime: int, count: int, delay: int, gib: float) -> None:
    steps = downtime_steps(NovaSettings(downtime=downtime, downtime_steps=count, downtime_delay=delay), gib)
    times, limits = zip(*steps, strict=True)
    assert limits[0] == downtime // count
    assert downtime - 1 <= limits[-1] <= downtime
    assert {later - earlier for earlier, later in pairwise(times)} == {int(delay * gib)}
    increases = [later - earlier for earlier, later in pairwise(limits)]
    assert max(increases) - min(increases) <= 1
