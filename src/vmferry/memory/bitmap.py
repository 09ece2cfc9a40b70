"""A set of guest pages as a bitmap in KVM's dirty-log layout.

Bit i of the set is bit i % 64 of the little-endian uint64 word i // 64. Bits beyond the last page are
always 0, so that words can be counted and compared whole.
"""

import numpy as np
from numpy.typing import NDArray

from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.memory.words import BLOCK_WORDS, ONES, Words, count_bits, drawn_words, first_bits, take_out, words_of

_ONE = np.uint64(1)
_FROM = [ONES << np.uint64(bit) for bit in range(64)]
"""The bits of a word from that one on."""
_UP_TO = [ONES >> np.uint64(63 - bit) for bit in range(64)]
"""Those up to that one."""


class Bitmap:
    """A set of page indices below `page_count`, empty at first.

    `words` may be written by others (a dirty log), as long as bits beyond the last page stay 0.
    """

    def __init__(self, page_count: int) -> None:
        self.page_count = page_count
        self.words: Words = np.zeros((page_count + 63) // 64, np.uint64)

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
        missing = self.missing(runs)
        if not missing:
            return np.ones(runs.page_count, np.bool_)
        if missing.page_count == runs.page_count:
            return np.zeros(runs.page_count, np.bool_)
        return self.test_pages(runs.indices())

    def missing(self, runs: PageRuns) -> PageRuns:
        """Return those pages of the runs that are not in the set."""
        return PageRuns.of_words(runs.place.start, runs.words & ~self.words[runs.place])

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
            self.words[low + 1 : high] = ONES
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
        if not len(pages):
            return
        first_word, end_word = int(pages.min()) >> 6, (int(pages.max()) >> 6) + 1
        if end_word - first_word > len(pages):
            np.bitwise_or.at(self.words, pages >> 6, _ONE << (pages & 63).astype(np.uint64))
            return
        flags = np.zeros((end_word - first_word) * 64, np.bool_)
        flags[pages - first_word * 64] = True
        self.words[first_word:end_word] |= words_of(flags)

    def set_by_chance(self, first: int, count: int, chance: float, random: np.random.Generator) -> None:
        """Put each of `count` pages from `first` on into the set with this chance, independently of each other."""
        low, high, low_mask, high_mask = _span(first, count)
        for at in range(low, high + 1, BLOCK_WORDS):
            drawn = drawn_words(min(BLOCK_WORDS, high + 1 - at), chance, random)
            if at == low:
                drawn[0] &= low_mask
            if at + len(drawn) > high:
                drawn[-1] &= high_mask
            self.words[at : at + len(drawn)] |= drawn

    def set_runs(self, runs: PageRuns) -> None:
        """Put all pages of the runs into the set."""
        if not runs.far_apart:
            self.words[runs.place] |= runs.words
            return
        for first, count in runs:
            self.set_range(first, count)

    def clear_runs(self, runs: PageRuns) -> None:
        """Take all pages of the runs out of the set."""
        if not runs.far_apart:
            take_out(self.words[runs.place], runs.words)
            return
        for first, count in runs:
            self.clear_range(first, count)

    # The whole set

    def count(self) -> int:
        """Return how many pages are in the set."""
        return count_bits(self.words)

    def any(self) -> bool:
        """Return whether any page is in the set."""
        return bool(self.words.any())

    def count_and_not(self, other: "Bitmap") -> int:
        """Return how many pages are in this set but not in `other`."""
        blocks = range(0, len(self.words), BLOCK_WORDS)
        return sum(count_bits(self.words[at : at + BLOCK_WORDS] & ~other.words[at : at + BLOCK_WORDS]) for at in blocks)

    def become_and_not(self, other: "Bitmap", without: "Bitmap") -> None:
        """Become what is in `other` and not in `without`."""
        for at in range(0, len(self.words), BLOCK_WORDS):
            block = slice(at, at + BLOCK_WORDS)
            np.bitwise_and(other.words[block], ~without.words[block], out=self.words[block])

    def or_and_not(self, other: "Bitmap", without: "Bitmap") -> None:
        """Put every page of `other` into the set that is not in `without`."""
        for at in range(0, len(self.words), BLOCK_WORDS):
            block = slice(at, at + BLOCK_WORDS)
            self.words[block] |= other.words[block] & ~without.words[block]

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
        """Return the set as it is now as runs of pages."""
        return PageRuns.of_words(0, self.words.copy())

    def take(self, cursor: int, max_pages: int) -> PageRuns:
        """Remove the first `max_pages` pages at or after page `cursor`, or fewer, and return them.

        If there is none from there on, the search begins again at page 0. Sparse sets may yield less than
        `max_pages` although more are left. The cost is that of the words looked at.
        """
        pages = self._take_from(cursor, max_pages)
        return pages if pages or cursor == 0 else self._take_from(0, max_pages)

    def _take_from(self, cursor: int, max_pages: int) -> PageRuns:
        start = self._first_word_with_pages(cursor)
        if start == len(self.words):
            return EMPTY
        first_page = max(cursor, start * 64)
        taken = PageRuns.of_words(start, *first_bits(self._window(start, first_page, max_pages), max_pages))
        self.clear_runs(taken)
        return taken

    def _first_word_with_pages(self, cursor: int) -> int:
        """Return the index of the first word with a page at or after `cursor`, or the number of words."""
        start = cursor >> 6
        if start < len(self.words) and not int(self.words[start]) >> (cursor & 63):
            start += 1
        if start < len(self.words) and self.words[start]:
            return start  # as mostly
        while start < len(self.words):
            block = self.words[start : start + BLOCK_WORDS]
            # A short look first: mostly one of the next words has pages.
            for part in (block[:64], block):
                if part.any():
                    return start + int(np.argmax(part != 0))
            start += len(block)
        return start

    def _window(self, start: int, first_page: int, max_pages: int) -> Words:
        """Return a copy of words from `start` on that hold at least `max_pages` pages, or enough words."""
        size = (max_pages >> 6) + 2
        found = count_bits(self.words[start : start + size])
        while found < max_pages and size < BLOCK_WORDS and start + size < len(self.words):
            found += count_bits(self.words[start + size : start + 4 * size])
            size *= 4
        window = self.words[start : start + size].copy()
        window[0] &= ONES << np.uint64(first_page - start * 64)
        return window


def _span(first: int, count: int) -> tuple[int, int, np.uint64, np.uint64]:
    """Return the first and last word of a range, and the range's bits in each."""
    last = first + count - 1
    return first >> 6, last >> 6, _FROM[first & 63], _UP_TO[last & 63]
