"""How small compressing makes a guest's pages, found out while it runs: some are packed as channels pack them.

They are drawn from the pages that a migration would send: touched, and not zero. As a batch is packed as one, they come
in pieces of neighbours, which may be alike.
"""

import os
import time
from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.migration.compression import CompressionSample
from vmferry.migration.dirty_rate import ReadableGuest
from vmferry.settings.choices import MultiFdCompression
from vmferry.transport.compression import Compression, Packer
from vmferry.units import NS_PER_S

_PIECES = 64
"""How many are looked at, where most of what the guest has touched is zero; each is a word of a bitmap."""
_ENOUGH_PAGES = 512


class SampledGuest(ReadableGuest, Protocol):
    """A guest of which is known what a migration would send."""

    def find_touched(self, bitmap: Bitmap) -> None:
        """Overwrite `bitmap` with the pages that may hold something else than zero bytes."""
        ...

    def zero_pages(self, pages: PageRuns) -> NDArray[np.bool_]:
        """Return one flag for each page, in order: does it hold only zero bytes?"""
        ...


def sample_compression(
    guest: SampledGuest, level: int, channel_count: int, random: np.random.Generator
) -> CompressionSample:
    """Pack some pages for nothing, at most 512 and 64 more. `channel_count` is how many threads would pack."""
    compression = Compression(MultiFdCompression.ZSTD, level)
    packer = compression.packer()
    page_count = took_ns = 0
    for pages in _pieces(guest, random):
        took_ns += _pack(packer, [guest.view(first, count) for first, count in pages])
        page_count += pages.page_count
        if page_count >= _ENOUGH_PAGES:
            break
    figures = compression.figures()
    threads = min(channel_count, len(os.sched_getaffinity(0)))
    return CompressionSample(
        page_count=page_count,
        ratio=figures.ratio,
        bytes_per_s=threads * figures.plain_bytes * NS_PER_S // took_ns if took_ns else None,
    )


def _pack(packer: Packer, views: list[memoryview]) -> int:
    """Pack a batch, and return how much processor time that took, in ns."""
    start_ns = time.thread_time_ns()
    packed = packer.pack(views)
    took_ns = time.thread_time_ns() - start_ns
    plain_bytes = sum(map(len, views))
    packer.sent(plain_bytes, plain_bytes if packed is None else len(packed))
    return took_ns


def _pieces(guest: SampledGuest, random: np.random.Generator) -> Iterator[PageRuns]:
    """Yield pages that are not zero, each page as likely as any other."""
    touched = Bitmap(guest.layout.page_count)
    guest.find_touched(touched)
    sums = np.cumsum(np.bitwise_count(touched.words), dtype=np.int64)
    if not sums[-1]:
        return
    for word in np.searchsorted(sums, random.integers(sums[-1], size=_PIECES), side="right").tolist():
        pages = PageRuns.of_words(word, touched.words[word : word + 1])
        data, _ = pages.split(guest.zero_pages(pages))
        if data:
            yield data
