import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.convergence.history import History

S = 1_000_000_000
STRETCHES = st.lists(st.tuples(st.integers(1, 3 * S), st.integers(0, 1 << 40)), min_size=1, max_size=30)


def history_of(stretches: list[tuple[int, int]]) -> History:
    history = History()
    for stretch in stretches:
        history.learn(*stretch)
    return history


@given(STRETCHES)
def test_the_most_in_a_row_of_whole_stretches_is_what_counting_finds(stretches: list[tuple[int, int]]) -> None:
    history = history_of(stretches)
    kept = stretches[-len(history._stretches) :]
    longest_ns, most_bytes = max(kept, key=lambda stretch: stretch[0])
    assert history.most_bytes(np.array([float(longest_ns)]))[0] >= most_bytes * (1 - 1e-9)
    total = sum(size for _, size in kept)
    assert history.most_bytes(np.array([float(history.observed_ns)]))[0] == pytest.approx(total, rel=1e-6, abs=1)


def test_it_reaches_back_a_minute() -> None:
    history = history_of([(S, 1 << 30)] * 10 + [(S, 0)] * 60)
    assert history.observed_ns == 60 * S
    assert history.most_bytes(np.array([10.0 * S]))[0] == 0


def test_a_steady_guest_writes_again_what_its_curve_says_also_in_less_than_a_stretch() -> None:
    history = history_of([(2 * S, 100), (2 * S, 100)])
    written = history.again(lambda duration_ns: 100 * np.minimum(1.0, duration_ns / S))
    starts = np.array([0.0, S, 2.5 * S])
    assert written(starts, starts + S / 2).tolist() == [50, 50, 50]


def test_what_comes_in_bursts_comes_again_in_bursts() -> None:
    history = history_of([(S, 1000), (9 * S, 0)])
    written = history.again(lambda duration_ns: np.full(len(duration_ns), 1000.0))
    starts, ends = np.array([2.0, 5.0, 10.0, 15.0]) * S, np.array([9.0, 12.0, 11.0, 19.0]) * S
    assert written(starts, ends).tolist() == [0, 1000, 1000, 0]


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 50)), min_size=1, max_size=8), st.integers(1, 30))
def test_the_least_in_so_much_time_is_what_looking_from_each_moment_on_finds(
    stretches: list[tuple[int, int]], duration: int
) -> None:
    history = history_of(stretches)
    rates = [size / length for length, size in stretches for _ in range(length)]
    found = [sum(rates[(start + moment) % len(rates)] for moment in range(duration)) for start in range(len(rates))]
    assert history.least_bytes(duration) == pytest.approx(min(found), abs=1e-6)
