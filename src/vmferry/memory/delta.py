"""Deltas: how pages differ from what they were, as runs of changed words and what these hold now.

QEMU's XBZRLE in words of eight bytes instead of single ones, and in columns, so that all pages of a batch are looked at
together. What old and new content have in common is zero once XORed, and only the lengths of these runs are told. The
delta of several pages is, little-endian:

    of each page    how many runs of changed words it has               2 bytes
    of each run     its first word in the page, how many words it has   2 bytes each
    of each run     these words                                         8 bytes each

Told are the words themselves and not their XOR, so a delta that is applied twice does no harm.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmferry.errors import PeerError
from vmferry.memory.ranges import spread

WORD = np.dtype("<u8")
_NUMBER = np.dtype("<u2")
_PAGE_BYTES = _NUMBER.itemsize
_RUN_BYTES = 2 * _NUMBER.itemsize
_MAX_WORDS = (1 << 16) - 1


class PageChanges:
    """Where pages, the rows of `new`, differ from the same rows of `old`; both are arrays of words."""

    def __init__(self, old: NDArray[np.uint64], new: NDArray[np.uint64]) -> None:
        page_count, self._page_words = new.shape
        assert self._page_words <= _MAX_WORDS, f"pages of {self._page_words} words"
        self._new = new
        starts, ends = _runs_of(old, new)
        self._page, self._first = np.divmod(starts, self._page_words + 1)
        self._count = ends - starts
        self._run_counts = np.bincount(self._page, minlength=page_count)
        changed_words = np.bincount(self._page, self._count, page_count).astype(np.int64)
        self.sizes_bytes = _PAGE_BYTES + _RUN_BYTES * self._run_counts + WORD.itemsize * changed_words
        """Of the delta of each page."""

    def encode(self, chosen: NDArray[np.bool_]) -> bytes:
        """Return the delta of the pages whose flag is set."""
        runs = chosen[self._page]
        page, first, count = self._page[runs], self._first[runs], self._count[runs]
        numbers = np.concatenate((self._run_counts[chosen], np.column_stack((first, count)).ravel()))
        words = self._new.ravel()[spread(page * self._page_words + first, count)]
        return numbers.astype(_NUMBER).tobytes() + words.astype(WORD).tobytes()


def _runs_of(old: NDArray[np.uint64], new: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where runs of differing words begin and end, all pages in a row, with one equal word behind each page."""
    page_count, page_words = new.shape
    differs = np.zeros(1 + page_count * (page_words + 1), np.bool_)
    np.not_equal(old, new, out=differs[1:].reshape(page_count, page_words + 1)[:, :-1])
    edges = np.flatnonzero(differs[1:] != differs[:-1])
    return edges[::2], edges[1::2]


def apply_delta(delta: bytes | bytearray | memoryview, views: Sequence[memoryview], page_size: int) -> None:
    """Change pages as a delta says; the views show them in order.

    Raises PeerError, and has changed nothing, if it is anything but the delta of exactly these pages.
    """
    page_counts = [len(view) // page_size for view in views]
    page_words = page_size // WORD.itemsize
    places, words = _parse(memoryview(delta), sum(page_counts), page_words)
    first_words = np.cumsum([0, *page_counts]) * page_words
    bounds = np.searchsorted(places, first_words)
    for view, first_word, start, end in zip(views, first_words, bounds, bounds[1:], strict=False):
        np.frombuffer(view, WORD)[places[start:end] - first_word] = words[start:end]


def _parse(delta: memoryview, page_count: int, page_words: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return which words change, all pages in a row, in ascending order, and what they become."""
    run_counts, delta = _take(delta, _NUMBER, page_count)
    numbers, delta = _take(delta, _NUMBER, 2 * int(run_counts.sum()))
    first, count = numbers.reshape(-1, 2).astype(np.int64).T
    words, delta = _take(delta, WORD, int(count.sum()))
    places = np.repeat(np.arange(page_count), run_counts) * page_words + first
    ends = places + count
    ascending = (places[1:] >= ends[:-1]).all()
    if len(delta) or (first + count > page_words).any() or not (ascending and count.all()):
        raise _damaged()
    return spread(places, count), words


def _take(data: memoryview, dtype: np.dtype[Any], count: int) -> tuple[NDArray[Any], memoryview]:
    """Return the first `count` numbers, and what is behind them."""
    size_bytes = count * dtype.itemsize
    if size_bytes > len(data):
        raise _damaged()
    return np.frombuffer(data[:size_bytes], dtype), data[size_bytes:]


def _damaged() -> PeerError:
    return PeerError("the peer sent a delta of pages that is damaged")
