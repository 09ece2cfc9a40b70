"""Compares two groups of measured values: medians, a permutation test, an effect size, and what may be said.

The test asks how often a random split of all the values into two groups of these sizes is as far apart as the real one
(Good, "Permutation Tests"); it needs no assumption on how the values are spread, but with few values it cannot show
much: with three and three its p is never below 0.1.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, count

import numpy as np
from numpy.typing import NDArray

SIGNIFICANT_P = 0.05
_MAX_EXACT_SPLITS = 50_000
_RANDOM_SPLITS = 20_000


@dataclass(frozen=True)
class Comparison:
    """How the values of a second group stand to those of a first."""

    first_median: float
    second_median: float
    p: float
    """Probability of such a difference if the groups did not differ, two-sided."""
    p_min: float
    """The least p that groups of these sizes can show."""
    cliffs_delta: float
    """-1: every second value is below every first; 0: no tendency; 1: above."""

    @property
    def too_few(self) -> bool:
        """True if groups of these sizes cannot show a difference, however far apart they are."""
        return self.p_min > SIGNIFICANT_P

    @property
    def ratio(self) -> float:
        """Second median over the first; infinite if that is 0."""
        if self.first_median == 0:
            return 1.0 if self.second_median == 0 else math.inf
        return self.second_median / self.first_median

    @property
    def verdict(self) -> str:
        """Say what the comparison shows of the second group. Too few runs may all differ and still prove nothing."""
        direction = "less" if self.cliffs_delta < 0 else "more"
        if self.p <= SIGNIFICANT_P:
            return direction
        if abs(self.cliffs_delta) == 1 and self.too_few:
            return f"{direction} (too few runs)"
        return "no difference shown"


def runs_needed() -> int:
    """Return the least size of two groups of one size that can show a difference."""
    return next(size for size in count(1) if _p_min(size, size) <= SIGNIFICANT_P)


def compare(first: Sequence[float], second: Sequence[float]) -> Comparison:
    """Compare two groups of at least one value each."""
    values = np.array([*first, *second], float)
    observed = abs(_difference(values, np.arange(len(first))))
    differences = np.array([abs(_difference(values, split)) for split in _splits(len(first), len(second))])
    # Equal up to rounding: the same values added in another order.
    p = float(np.mean(differences >= observed - 1e-9 * max(1.0, observed)))
    above = sum(int(b > a) - int(b < a) for a in first for b in second)
    return Comparison(
        first_median=statistics.median(first),
        second_median=statistics.median(second),
        p=p,
        p_min=_p_min(len(first), len(second)),
        cliffs_delta=above / (len(first) * len(second)),
    )


def _p_min(first_count: int, second_count: int) -> float:
    mirrored = 2 if first_count == second_count else 1
    return min(1.0, mirrored / math.comb(first_count + second_count, first_count))


def _splits(first_count: int, second_count: int) -> Iterator[NDArray[np.intp]]:
    """Yield which values go into the first group: every possible split if they are few, else random ones."""
    total = first_count + second_count
    if math.comb(total, first_count) <= _MAX_EXACT_SPLITS:
        for split in combinations(range(total), first_count):
            yield np.array(split)
        return
    random = np.random.default_rng(0)
    yield np.arange(first_count)
    for _ in range(_RANDOM_SPLITS):
        yield random.permutation(total)[:first_count]


def _difference(values: NDArray[np.float64], first: NDArray[np.intp]) -> float:
    """Mean of the second group less that of the first."""
    chosen = values[first].sum()
    return float((values.sum() - chosen) / (len(values) - len(first)) - chosen / len(first))
