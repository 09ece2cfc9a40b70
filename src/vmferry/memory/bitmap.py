"""A set of guest pages as a bitmap in KVM's dirty-log layout.

Bit i of the set is bit i % 64 of the little-endian uint64 word i // 64. Bits beyond the last page are
always 0, so that words can be counted and compared whole.
"""

import numpy as np
from numpy.typing import NDArray

from vmferry.memory.ranges import EMPTY, PageRuns

_ONES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_ONE = np.uint64(1)
_TOP = np.uint64(63)
_BLOCK_WORDS = 1 << 15
"""Words looked at in one go: 2 million pages, 256 KiB, which stays in the processor's cache."""

_MANY_SHORT_RUNS = 32
"""Runs shorter than this on average are set faster page by page, all at once."""


class Bitmap:
    """A set of page indices below `page_count`, empty at first.

    `words` may be written by others (a dirty log), as long as bits beyond the last page stay 0.
    """

    def __init__(self, page_count: int) -> None:
        self.page_count = page_count
        self.words: NDArray[np.uint64] = np.zeros((page_count + 63) // 64, np.uint64)

    def copy(self) -> "Bitmap":
        """Return an equal, independent set."""
        bitmap = Bitmap(0)
        bitmap.page_count = self.page_count
        bitmap.words = self.words.copy()
        return bitmap

    def copy_from(self, other: "Bitmap") -> None:
        """Become equal to `other`, which has the same size."""
        np.copyto(self.words, other.words)

    # One page, ranges, all

    def test(self, page: int) -> bool:
        """Return whether the page is in the set."""
        return bool(self.words[page >> 6] >> np.uint64(page & 63) & _ONE)

    def test_pages(self, pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return one flag for each of these pages: is it in the set?"""
        flags: NDArray[np.bool_] = (self.words[pages >> 6] >> (pages & 63).astype(np.uint64) & _ONE) != 0
        return flags

    def test_runs(self, runs: PageRuns) -> NDArray[np.bool_]:
        """Return one flag for each page of the runs, in order: is it in the set?"""
        if len(runs) != 1:
            return self.test_pages(runs.indices())
        first = int(runs.first[0])
        words = self.words[first >> 6 : (runs.last_page >> 6) + 1]
        return _flags(words)[first & 63 :][: runs.page_count]

    def set_all(self) -> None:
        """Put every page into the set."""
        self.set_range(0, self.page_count)

    def clear_all(self) -> None:
        """Take every page out of the set."""
        self.words.fill(0)

    def set_range(self, first: int, count: int) -> None:
        """Put `count` pages from `first` on into the set."""
        if count:
            low, high, low_mask, high_mask = _span(first, count)
            if low == high:
                self.words[low] |= low_mask & high_mask
                return
            self.words[low] |= low_mask
            self.words[low + 1 : high] = _ONES
            self.words[high] |= high_mask

    def clear_range(self, first: int, count: int) -> None:
        """Take `count` pages from `first` on out of the set."""
        if count:
            low, high, low_mask, high_mask = _span(first, count)
            if low == high:
                self.words[low] &= ~(low_mask & high_mask)
                return
            self.words[low] &= ~low_mask
            self.words[low + 1 : high] = 0
            self.words[high] &= ~high_mask

    def set_pages(self, pages: NDArray[np.int64]) -> None:
        """Put these pages, in any order, into the set."""
        np.bitwise_or.at(self.words, pages >> 6, _ONE << (pages & 63).astype(np.uint64))

    def set_runs(self, runs: PageRuns) -> None:
        """Put all pages of the runs into the set."""
        if runs.page_count < len(runs) * _MANY_SHORT_RUNS:
            self.set_pages(runs.indices())
            return
        for first, count in runs:
            self.set_range(first, count)

    def clear_pages(self, pages: NDArray[np.int64]) -> None:
        """Take these pages, in any order, out of the set."""
        np.bitwise_and.at(self.words, pages >> 6, ~(_ONE << (pages & 63).astype(np.uint64)))

    def clear_runs(self, runs: PageRuns) -> None:
        """Take all pages of the runs out of the set."""
        if runs.page_count < len(runs) * _MANY_SHORT_RUNS:
            self.clear_pages(runs.indices())
            return
        for first, count in runs:
            self.clear_range(first, count)

    # The whole set

    def count(self) -> int:
        """Return how many pages are in the set."""
        return _count(self.words)

    def any(self) -> bool:
        """Return whether any page is in the set."""
        return bool(self.words.any())

    def count_and_not(self, other: "Bitmap") -> int:
        """Return how many pages are in this set but not in `other`."""
        blocks = range(0, len(self.words), _BLOCK_WORDS)
        return sum(_count(self.words[at : at + _BLOCK_WORDS] & ~other.words[at : at + _BLOCK_WORDS]) for at in blocks)

    def or_and_not(self, other: "Bitmap", without: "Bitmap") -> None:
        """Put every page of `other` into the set that is not in `without`."""
        for at in range(0, len(self.words), _BLOCK_WORDS):
            block = slice(at, at + _BLOCK_WORDS)
            self.words[block] |= other.words[block] & ~without.words[block]

    def and_not(self, other: "Bitmap") -> None:
        """Take every page of `other` out of the set."""
        for at in range(0, len(self.words), _BLOCK_WORDS):
            self.words[at : at + _BLOCK_WORDS] &= ~other.words[at : at + _BLOCK_WORDS]

    def __ior__(self, other: "Bitmap") -> "Bitmap":
        self.words |= other.words
        return self

    def __iand__(self, other: "Bitmap") -> "Bitmap":
        self.words &= other.words
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitmap):
            return NotImplemented
        return self.page_count == other.page_count and np.array_equal(self.words, other.words)

    __hash__ = None  # type: ignore[assignment]  # it is mutable

    # Runs

    def runs(self) -> PageRuns:
        """Return the set as runs of pages."""
        return _runs(self.words, 0)

    def take(self, cursor: int, max_pages: int) -> PageRuns:
        """Remove the first `max_pages` pages at or after page `cursor`, or fewer, and return them.

        If there is none from there on, the search begins again at page 0. Sparse sets may yield less than
        `max_pages` although more are left. The cost is that of the words looked at.
        """
        pages = self._take_from(cursor, max_pages)
        return pages if len(pages) or cursor == 0 else self._take_from(0, max_pages)

    def _take_from(self, cursor: int, max_pages: int) -> PageRuns:
        start = self._first_word_with_pages(cursor)
        if start == len(self.words):
            return EMPTY
        first_page = max(cursor, start * 64)
        if self._all_from(first_page, max_pages):  # as in a first pass, and where guests write in order
            self.clear_range(first_page, max_pages)
            return PageRuns(np.array([first_page]), np.array([max_pages]))
        window = self._window(start, first_page, max_pages)
        pages = _first_pages(_runs(window, start * 64), max_pages)
        self.clear_range(first_page, pages.last_page + 1 - first_page)
        return pages

    def _all_from(self, first_page: int, count: int) -> bool:
        """Return whether the whole words of these pages are full; False unless they are whole words."""
        words = self.words[first_page >> 6 : (first_page + count) >> 6]
        return not (first_page | count) & 63 and len(words) * 64 == count > 0 and bool(words.min() == _ONES)

    def _first_word_with_pages(self, cursor: int) -> int:
        """Return the index of the first word with a page at or after `cursor`, or the number of words."""
        start = cursor >> 6
        if start < len(self.words) and not self.words[start] & (_ONES << np.uint64(cursor & 63)):
            start += 1
        while start < len(self.words):
            block = self.words[start : start + _BLOCK_WORDS]
            # A short look first: mostly the next word has pages.
            for part in (block[:64], block):
                if part.any():
                    return start + int(np.argmax(part != 0))
            start += len(block)
        return start

    def _window(self, start: int, first_page: int, max_pages: int) -> NDArray[np.uint64]:
        """Return a copy of words from `start` on that hold at least `max_pages` pages, or enough words."""
        size = (max_pages >> 6) + 2
        found = _count(self.words[start : start + size])
        while found < max_pages and size < _BLOCK_WORDS and start + size < len(self.words):
            found += _count(self.words[start + size : start + 4 * size])
            size *= 4
        window = self.words[start : start + size].copy()
        window[0] &= _ONES << np.uint64(first_page - start * 64)
        return window


def _span(first: int, count: int) -> tuple[int, int, np.uint64, np.uint64]:
    """Return the first and last word of a range, and the range's bits in each."""
    last = first + count - 1
    return first >> 6, last >> 6, _ONES << np.uint64(first & 63), _ONES >> np.uint64(63 - (last & 63))


def _count(words: NDArray[np.uint64]) -> int:
    return int(np.bitwise_count(words).sum(dtype=np.int64))


def _runs(words: NDArray[np.uint64], first_page: int) -> PageRuns:
    """Return the runs of set bits, block by block to stay in the cache."""
    # Room for the worst case, runs of one page; what is not written takes no memory.
    bounds = np.empty(2 * _count(words) + 1, np.int64)
    used = 0
    for at in range(0, len(words), _BLOCK_WORDS):
        positions = _bits(_edges(words[at : at + _BLOCK_WORDS], words[at - 1] if at else np.uint64(0)))
        np.add(positions, first_page + at * 64, out=bounds[used : used + len(positions)])
        used += len(positions)
    if used % 2:
        bounds[used] = first_page + len(words) * 64
        used += 1
    return PageRuns(bounds[0:used:2], bounds[1:used:2] - bounds[0:used:2])


def _edges(words: NDArray[np.uint64], word_before: np.uint64) -> NDArray[np.uint64]:
    """Return the bits that differ from their predecessor: where runs start, and one past where they end."""
    predecessors = words << _ONE
    predecessors[1:] |= words[:-1] >> _TOP
    predecessors[0] |= word_before >> _TOP
    return words ^ predecessors


def _bits(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the positions of the set bits, ascending; words without any are passed over if they prevail."""
    used = np.flatnonzero(words)
    if 2 * len(used) > len(words):
        return _unpacked(words)
    positions = _unpacked(words[used])
    bits: NDArray[np.int64] = used[positions >> 6] * 64 + (positions & 63)
    return bits


def _unpacked(words: NDArray[np.uint64]) -> NDArray[np.int64]:
    return np.flatnonzero(_flags(words))


def _flags(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    return np.unpackbits(words.view(np.uint8), bitorder="little").view(np.bool_)


def _first_pages(runs: PageRuns, max_pages: int) -> PageRuns:
    """Return the first `max_pages` pages of the runs."""
    ends = np.cumsum(runs.count)
    if ends[-1] <= max_pages:
        return runs
    used = int(np.searchsorted(ends, max_pages)) + 1
    count = runs.count[:used].copy()
    count[-1] -= ends[used - 1] - max_pages
    return PageRuns(runs.first[:used], count)
