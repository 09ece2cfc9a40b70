"""Runs of pages."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vmferry.memory.ranges import EMPTY, PageRuns

page_sets = st.sets(st.integers(0, 300))


@given(page_sets)
def test_indices_and_back(pages: set[int]) -> None:
    ordered = np.array(sorted(pages), np.int64)
    runs = PageRuns.from_indices(ordered)
    assert runs.indices().tolist() == ordered.tolist()
    assert runs.page_count == len(pages)
    assert PageRuns.of(list(runs)) == runs


@given(page_sets, st.sets(st.integers(0, 300)))
def test_split(pages: set[int], chosen: set[int]) -> None:
    runs = PageRuns.from_indices(np.array(sorted(pages), np.int64))
    flags = np.array([page in chosen for page in sorted(pages)], bool)
    rest, picked = runs.split(flags)
    assert set(picked.indices().tolist()) == pages & chosen
    assert set(rest.indices().tolist()) == pages - chosen


def test_empty() -> None:
    assert len(EMPTY) == EMPTY.page_count == len(EMPTY.indices()) == 0
    assert list(EMPTY) == []
    assert PageRuns.of([]) == EMPTY != PageRuns.of([(1, 1)])
    assert EMPTY != "no pages"
