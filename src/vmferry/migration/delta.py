"""Of pages that were sent before, send what has changed: the capability `xbzrle`.

What is encoded is what a guest that writes meanwhile left in its pages at one moment: content is read once, into a copy
that is encoded, sent and cached. So the cache holds exactly what the destination has, of each page that is in it:

- whatever is sent of a page that is in the cache, whole, as a delta or as zero, goes into the cache, too;
- a delta refers to what was sent in an earlier iteration, and comes after it.

The first iteration sends everything, most of it for the only time; the cache is used from the second one on. Sources:
QEMU `migration/ram.c` (`save_xbzrle_page`, `xbzrle_cache_zero_page`), whose statistics these are, too.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vmferry.errors import UsageError
from vmferry.memory.delta import WORD, PageChanges
from vmferry.memory.page_cache import PageCache
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.ports import Guest, ShowsPages
from vmferry.units import format_size
from vmferry.wire.messages import Pages

OVERHEAD_BYTES = 64
"""What the frame and the runs of a delta may take beside it at most."""
_ZERO_PAGE = np.zeros(1, WORD)
"""One word of it, which stands for all."""
_FIRST_ITERATION_WITH_CACHE = 2


@dataclass(frozen=True, kw_only=True)
class DeltaFigures:
    """What has been done so far in one migration (QEMU's `XBZRLECacheStats`)."""

    cache_size: int
    """Bytes that the cache may take."""
    bytes: int = 0
    """What was sent of pages that were in the cache, without frames."""
    pages: int = 0
    """How many pages were in the cache when they were to be sent."""
    cache_miss: int = 0
    """How many were not."""
    cache_miss_rate: float = 0.0
    """Their share in the pages of the running iteration so far, zero ones included."""
    encoding_rate: float = 0.0
    """How many times smaller than in memory the pages in the cache were in this iteration; 0 if there were none."""
    overflow: int = 0
    """How many pages went whole although they were in the cache, as too much of them had changed."""


class Deltas:
    """Makes the messages for pages of `guest`; `cache_size` is asked at every use. Raises UsageError if it cannot."""

    max_batch_pages = 256
    """As many as a processor's cache holds with all that is compared; more at once take twice as long."""

    def __init__(self, guest: Guest, cache_size: Callable[[], int]) -> None:
        if not isinstance(guest, ShowsPages):
            raise UsageError("xbzrle: the content of this guest's pages cannot be read; leave the capability off")
        self._guest = guest
        self._layout = guest.layout
        self._cache_size = cache_size
        self._iteration = _Iteration()
        self.figures = DeltaFigures(cache_size=cache_size())
        self._cache = self._make_cache()

    @property
    def saved_bytes(self) -> int:
        """By how much less was sent than pages are large."""
        return self.figures.pages * self._layout.page_size - self.figures.bytes

    def messages(self, data: PageRuns, zero: PageRuns, iteration_count: int, *, final: bool) -> list[Pages]:
        """Return what is to be sent of pages with content, and of pages that are zero, in this iteration.

        The content is read now, unless in the first iteration, when it is left to the channel.
        """
        self._begin(iteration_count)
        self._iteration.pages += data.page_count + zero.page_count
        if iteration_count < _FIRST_ITERATION_WITH_CACHE:
            return [Pages(data, zero, final)]
        self._cache.store(zero.indices(), _ZERO_PAGE)
        return self._messages(data, zero, final)

    def _messages(self, data: PageRuns, zero: PageRuns, final: bool) -> list[Pages]:
        pages, content = data.indices(), self._read(data)
        known = self._cache.holds(pages)
        changes = PageChanges(self._cache.content(pages[known]), content[known])
        fits = changes.sizes_bytes + OVERHEAD_BYTES <= self._layout.page_size
        self._cache.store(pages, content)
        self._count(known, changes.sizes_bytes, fits)
        is_delta = known.copy()
        is_delta[known] = fits
        messages = []
        if not is_delta.all() or len(zero):
            whole = content[~is_delta].view(np.uint8).reshape(-1).data
            messages.append(Pages(PageRuns.from_indices(pages[~is_delta]), zero, final, content=whole))
        if is_delta.any():
            delta, runs = changes.encode(fits), PageRuns.from_indices(pages[is_delta])
            messages.append(Pages(runs, EMPTY, final, len(delta), is_delta=True, content=delta))
        return messages

    def _read(self, data: PageRuns) -> NDArray[np.uint64]:
        """Return a copy of pages as they are now, one row of words for each."""
        content = np.empty((data.page_count, self._page_words), WORD)
        row = 0
        for first, count in data:
            content[row : row + count].data.cast("B")[:] = self._guest.view(first, count)
            row += count
        return content

    def _begin(self, iteration_count: int) -> None:
        """Take note of the iteration, and of a cache size that was changed: then it begins empty."""
        if iteration_count != self._cache.round:
            self._cache.round = iteration_count
            self._iteration = _Iteration()
        if (cache_size := self._cache_size()) != self.figures.cache_size:
            self.figures = replace(self.figures, cache_size=cache_size)
            self._cache = self._make_cache()
            self._cache.round = iteration_count

    def _make_cache(self) -> PageCache:
        """Return an empty cache. No more places than pages are of use, or than memory could hold."""
        enough = 1 << (self._layout.page_count - 1).bit_length()
        slot_count = max(1, min(self.figures.cache_size // self._layout.page_size, enough))
        try:
            return PageCache(slot_count, self._page_words)
        except MemoryError:
            size = format_size(slot_count * self._layout.page_size)
            raise UsageError(f"xbzrle-cache-size: this host has no memory for {size}; set less") from None

    @property
    def _page_words(self) -> int:
        return self._layout.page_size // WORD.itemsize

    def _count(self, known: NDArray[np.bool_], sizes_bytes: NDArray[np.int64], fits: NDArray[np.bool_]) -> None:
        known_pages, overflow = len(fits), int(np.count_nonzero(~fits))
        sent_bytes = int(sizes_bytes[fits].sum()) + overflow * self._layout.page_size
        self._iteration.misses += len(known) - known_pages
        self._iteration.known_bytes += known_pages * self._layout.page_size
        self._iteration.sent_bytes += sent_bytes
        self.figures = replace(
            self.figures,
            bytes=self.figures.bytes + sent_bytes,
            pages=self.figures.pages + known_pages,
            cache_miss=self.figures.cache_miss + len(known) - known_pages,
            overflow=self.figures.overflow + overflow,
            **self._iteration.rates,
        )


@dataclass
class _Iteration:
    """What was done in the running iteration."""

    pages: int = 0
    misses: int = 0
    known_bytes: int = 0
    sent_bytes: int = 0

    @property
    def rates(self) -> dict[str, Any]:
        return {
            "cache_miss_rate": self.misses / self.pages if self.pages else 0.0,
            "encoding_rate": self.known_bytes / self.sent_bytes if self.sent_bytes else 0.0,
        }
