"""Comparing groups of values: against a naive count of all splits, and what may be said of few values."""

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.study.compare import compare, runs_needed

values = st.lists(st.integers(0, 20).map(float), min_size=1, max_size=4)


def naive_p(first: list[float], second: list[float]) -> float:
    """Share of all orders of the values whose groups are at least as far apart as the real ones."""

    def apart(order: tuple[float, ...]) -> float:
        a, b = order[: len(first)], order[len(first) :]
        return abs(sum(a) / len(a) - sum(b) / len(b))

    real = apart((*first, *second))
    orders = list(permutations((*first, *second)))
    return sum(apart(order) >= real - 1e-9 for order in orders) / len(orders)


@given(values, st.lists(st.integers(0, 20).map(float), min_size=1, max_size=3))
def test_p_is_that_of_all_splits(first: list[float], second: list[float]) -> None:
    assert compare(first, second).p == pytest.approx(naive_p(first, second))


@given(values, values)
def test_the_other_way_round_is_the_mirror(first: list[float], second: list[float]) -> None:
    here, there = compare(first, second), compare(second, first)
    assert here.p == pytest.approx(there.p)
    assert here.cliffs_delta == -there.cliffs_delta
    assert here.p >= here.p_min


def test_three_runs_each_cannot_be_sure() -> None:
    outcome = compare([10, 11, 12], [1, 2, 3])
    assert outcome.p == outcome.p_min == pytest.approx(0.1)
    assert outcome.cliffs_delta == -1
    assert outcome.verdict == "less (too few runs)"


def test_the_least_number_that_can_be_sure_is_told() -> None:
    assert runs_needed() == 4
    assert compare([5, 6, 7, 8], [1, 2, 3, 4]).verdict == "less"
    assert [compare(range(n), range(9, 9 + n)).too_few for n in (1, 2, 3, 4)] == [True, True, True, False]


def test_five_runs_each_can() -> None:
    assert compare([10, 11, 12, 13, 14], [1, 2, 3, 4, 5]).verdict == "less"
    assert compare([1, 2, 3, 4, 5], [10, 11, 12, 13, 14]).verdict == "more"


def test_equal_groups_do_not_differ() -> None:
    outcome = compare([5, 5, 5], [5, 5, 5])
    assert (outcome.p, outcome.cliffs_delta, outcome.ratio, outcome.verdict) == (1, 0, 1, "no difference shown")


def test_many_values_are_sampled_always_the_same_way() -> None:
    first, second = [float(n) for n in range(30)], [float(n) + 40 for n in range(30)]
    assert compare(first, second) == compare(first, second)
    assert compare(first, second).verdict == "more"
