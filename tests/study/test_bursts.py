"""Bursts and calms worked out from looks at guests that are known exactly."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.convergence.written import Written
from vmferry.study.bursts import Bursts, Look, Spell, bursts_of

MIB = 1 << 20
MS = 1_000_000
WINDOWS = (50, 100, 200, 400, 800, 1600)


def looks_at(written_mib: "np.ndarray[tuple[int], np.dtype[np.float64]]", set_mib: float, rest_ms: int) -> list[Look]:
    """Looks at a guest that rewrites a set, and writes so much of it in each ms."""
    looks, now = [], 0
    for window in (*WINDOWS, *[50] * 100):
        if now + window > len(written_mib):
            break
        found = round(min(set_mib, float(written_mib[now : now + window].sum())) * MIB)
        looks.append(Look(now * MS, Written(window * MS, 1.0, found)))
        now += window + (rest_ms if window == WINDOWS[0] and len(looks) >= len(WINDOWS) else 0)
    return looks


def by_turns(calm_ms: int, busy_ms: int, calm_mib_per_s: float, length_ms: int = 9000) -> list[Look]:
    rates = np.where(np.arange(length_ms) % (calm_ms + busy_ms) < calm_ms, calm_mib_per_s / 1000, 2.0)
    return looks_at(rates, 300, 50)


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.1, 2.0])
@pytest.mark.parametrize("set_mib", [1, 30, 300, 10_000])
def test_a_guest_that_does_always_the_same_is_not_in_bursts(rate: float, set_mib: float) -> None:
    assert bursts_of(looks_at(np.full(9000, rate), set_mib, 450)) is None


@pytest.mark.parametrize("at", [6, 9, 14])
def test_a_guest_that_its_host_holds_up_once_is_not_in_bursts(at: int) -> None:
    looks = looks_at(np.full(9000, 2.0), 300, 450)
    looks[at] = Look(looks[at].begin_ns, Written(looks[at].written.duration_ns, 1.0, 0))
    assert len(looks) > 10
    assert bursts_of(looks) is None


def test_without_looks_nothing_is_said_of_bursts() -> None:
    assert bursts_of([]) is None


@pytest.mark.parametrize(("calm_ms", "busy_ms"), [(900, 100), (500, 500), (700, 300), (2000, 1000)])
@pytest.mark.parametrize("calm_mib_per_s", [0.0, 30.0])
def test_how_much_of_the_time_it_writes_and_how_much_in_the_rest_is_found(
    calm_ms: int, busy_ms: int, calm_mib_per_s: float
) -> None:
    bursts = bursts_of(by_turns(calm_ms, busy_ms, calm_mib_per_s))
    assert bursts
    assert bursts.busy_share == pytest.approx(busy_ms / (calm_ms + busy_ms), abs=0.1)
    assert bursts.busy[0].distinct_bytes == pytest.approx(100 * MIB, rel=0.01)
    assert bursts.busy[-1].distinct_bytes <= 300 * MIB
    assert bursts.calm[0].distinct_bytes <= 0.05 * calm_mib_per_s * MIB + 20 * MIB


def test_a_burst_that_only_a_long_look_has_seen_lasts_as_long_as_it_takes_to_write_that() -> None:
    rates = np.zeros(9000)
    rates[2000:2150] = 2.0
    bursts = bursts_of(looks_at(rates, 300, 450))
    assert bursts
    assert 0 < bursts.busy_share < 0.25


spells = st.lists(st.builds(Spell, st.integers(1, 10**10), st.booleans()), min_size=1, max_size=20)


@given(spells, st.floats(0, 1))
def test_a_round_of_spells_is_as_long_from_wherever_it_begins(seen: list[Spell], share: float) -> None:
    point = (Written(50 * MS, 1.0, MIB),)
    bursts = Bursts(tuple(seen), point, point)
    round_of = bursts.spells_from(share)
    for busy in (True, False):
        assert sum(spell.duration_ns for spell in round_of if spell.busy == busy) == sum(
            spell.duration_ns for spell in seen if spell.busy == busy
        )
    assert all(one.busy != other.busy for one, other in pairwise(round_of))


looks = st.lists(
    st.builds(
        Look, st.integers(0, 10**10), st.builds(Written, st.integers(1, 10**10), st.just(1.0), st.integers(0, 2**40))
    ),
    max_size=30,
)


@given(looks)
def test_whatever_was_found_the_curve_of_a_burst_never_falls_and_spells_take_time(seen: list[Look]) -> None:
    bursts = bursts_of(sorted(seen, key=lambda look: look.begin_ns))
    if bursts:
        assert all(spell.duration_ns > 0 for spell in bursts.spells)
        sizes = [point.distinct_bytes for point in bursts.busy]
        assert sizes == sorted(sizes)
        assert 0 <= bursts.busy_share <= 1
