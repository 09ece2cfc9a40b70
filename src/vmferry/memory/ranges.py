"""Runs of pages: what bitmaps are turned into to be sent.

Page indices count pages over all RAM blocks (see `layout.py`).
"""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from vmferry.memory.words import (
    Words,
    count_bits,
    first_position,
    last_position,
    positions_of,
    run_count_of,
    runs_of,
    words_of_runs,
)

_WORDS_PER_RUN = 300
"""To go through so many words takes as long as to go to one run."""


class PageRuns:
    """Pages, as ascending, non-overlapping runs, or as some words of a bitmap.

    Whichever they are made from, the other is worked out when it is asked for. The arrays must not be written once they
    are here.
    """

    place: "slice[int, int, None]"
    """Where `words` belong among those of a bitmap of all pages."""
    _runs: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    _words: Words | None
    _page_count: int | None

    def __init__(self, first: NDArray[np.int64], count: NDArray[np.int64]) -> None:
        """`first` holds the first page of each run, `count` how many it has, at least 1."""
        self.place = slice(int(first[0]) >> 6, (int(first[-1] + count[-1]) + 63) >> 6) if len(first) else slice(0, 0)
        self._runs, self._words, self._page_count = (first, count), None, None

    @classmethod
    def of_words(cls, first_word: int, words: Words, page_count: int | None = None) -> "PageRuns":
        """Return the pages of a bitmap's words from number `first_word` on; `page_count` is their number, if known."""
        pages = cls.__new__(cls)
        pages.place = slice(first_word, first_word + len(words))
        pages._runs, pages._words, pages._page_count = None, words, page_count
        return pages

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

    @property
    def first(self) -> NDArray[np.int64]:
        """The first page of each run."""
        return self._as_runs()[0]

    @property
    def count(self) -> NDArray[np.int64]:
        """How many pages each run has."""
        return self._as_runs()[1]

    @property
    def words(self) -> Words:
        """The words of a bitmap that hold the pages, and nothing else."""
        if self._words is None:
            first, count = self._as_runs()
            self._words = words_of_runs(first - self.place.start * 64, count, self.place.stop - self.place.start)
        return self._words

    @property
    def far_apart(self) -> bool:
        """True if it takes less time to go from run to run than through all words between."""
        return self._words is None and self.place.stop - self.place.start > len(self) * _WORDS_PER_RUN

    @property
    def page_count(self) -> int:
        """Pages in all runs together."""
        if self._page_count is None:
            self._page_count = int(self._runs[1].sum()) if self._runs else count_bits(self.words)
        return self._page_count

    @property
    def first_page(self) -> int:
        """The first page; there must be one."""
        if self._runs:
            return int(self._runs[0][0])
        return self.place.start * 64 + first_position(self.words)

    @property
    def last_page(self) -> int:
        """The last page; there must be one."""
        if self._runs:
            first, count = self._runs
            return int(first[-1] + count[-1]) - 1
        return self.place.start * 64 + last_position(self.words)

    def indices(self) -> NDArray[np.int64]:
        """Return every page index, ascending."""
        if not self._runs:
            return positions_of(self.words) + self.place.start * 64
        first, count = self._runs
        if len(first) == 1:
            return np.arange(first[0], first[0] + count[0], dtype=np.int64)
        return spread(first, count)

    def split(self, flags: NDArray[np.bool_]) -> tuple["PageRuns", "PageRuns"]:
        """Return the pages whose flag is False and those whose flag is True; one flag for each page."""
        if not flags.any():
            return self, EMPTY
        if flags.all():
            return EMPTY, self
        pages = self.indices()
        return PageRuns.from_indices(pages[~flags]), PageRuns.from_indices(pages[flags])

    def __bool__(self) -> bool:
        if self._runs:
            return bool(len(self._runs[0]))
        return bool(self.words.any()) if self._page_count is None else self._page_count > 0

    def __len__(self) -> int:
        return len(self._runs[0]) if self._runs else run_count_of(self.words)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self.first.tolist(), self.count.tolist(), strict=True))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PageRuns):
            return NotImplemented
        return np.array_equal(self.first, other.first) and np.array_equal(self.count, other.count)

    __hash__ = None  # type: ignore[assignment]  # arrays are mutable

    def __repr__(self) -> str:
        return f"PageRuns({self.first}, {self.count})"

    def _as_runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if self._runs is None:
            first, count = runs_of(self.words)
            self._runs = first + self.place.start * 64, count
        return self._runs


def spread(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return every number of all runs, given by the first one and their count, run by run."""
    starts = np.cumsum(count) - count
    return np.repeat(first - starts, count) + np.arange(count.sum(), dtype=np.int64)


EMPTY = PageRuns(np.empty(0, np.int64), np.empty(0, np.int64))
"""No page."""
