"""Runs of pages: what bitmaps are turned into to be sent.

Page indices count pages over all RAM blocks (see `layout.py`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PageRuns:
    """Ascending, non-overlapping runs of pages: `first` page and `count` (>= 1) of each, as int64 arrays.

    The arrays must not be written once they are here.
    """

    first: NDArray[np.int64]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, runs: Iterable[tuple[int, int]]) -> "PageRuns":
        """Return the runs given as (first page, page count)."""
        pairs = np.array(list(runs), np.int64).reshape(-1, 2)
        return cls(pairs[:, 0].copy(), pairs[:, 1].copy())

    @classmethod
    def from_indices(cls, pages: NDArray[np.int64]) -> "PageRuns":
        """Return the runs that ascending, unique page indices form."""
        if not len(pages):
            return EMPTY
        breaks = np.flatnonzero(np.diff(pages) != 1) + 1
        starts = np.concatenate(([0], breaks))
        ends = np.concatenate((breaks, [len(pages)]))
        return cls(pages[starts].astype(np.int64), (ends - starts).astype(np.int64))

    @cached_property
    def page_count(self) -> int:
        """Pages in all runs together."""
        return int(self.count.sum())

    @property
    def last_page(self) -> int:
        """The last page of the last run; there must be one."""
        return int(self.first[-1] + self.count[-1]) - 1

    def indices(self) -> NDArray[np.int64]:
        """Return every page index, ascending."""
        if len(self) == 1:
            return np.arange(self.first[0], self.first[0] + self.count[0], dtype=np.int64)
        return spread(self.first, self.count)

    def split(self, flags: NDArray[np.bool_]) -> tuple["PageRuns", "PageRuns"]:
        """Return the pages whose flag is False and those whose flag is True; one flag for each page."""
        if not flags.any():
            return self, EMPTY
        if flags.all():
            return EMPTY, self
        pages = self.indices()
        return PageRuns.from_indices(pages[~flags]), PageRuns.from_indices(pages[flags])

    def __len__(self) -> int:
        return len(self.first)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self.first.tolist(), self.count.tolist(), strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PageRuns):
            return NotImplemented
        return np.array_equal(self.first, other.first) and np.array_equal(self.count, other.count)

    __hash__ = None  # type: ignore[assignment]  # arrays are mutable


def spread(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every number of all runs, given by the first one and their count, run by run."""
    starts = np.cumsum(count) - count
    return np.repeat(first - starts, count) + np.arange(count.sum(), dtype=np.int64)


EMPTY = PageRuns(np.empty(0, np.int64), np.empty(0, np.int64))
"""No page."""
