"""Zero pages are found, and only they."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vmferry.memory.pages import zero_pages
from vmferry.memory.ranges import PageRuns

PAGES = 40
writes = st.lists(st.tuples(st.integers(0, PAGES - 1), st.integers(0, 4095), st.integers(0, 255)))


@given(writes, st.sets(st.integers(0, PAGES - 1)))
def test_zero_pages(written: list[tuple[int, int, int]], asked: set[int]) -> None:
    ram = np.zeros((PAGES, 512), np.uint64)
    for page, offset, value in written:
        ram.view(np.uint8)[page, offset] = value
    pages = PageRuns.from_indices(np.array(sorted(asked), np.int64))
    oracle = [not any(ram.view(np.uint8)[page]) for page in sorted(asked)]
    assert zero_pages(ram, pages).tolist() == oracle
