"""Which pages a modelled vCPU writes: each pattern marks those that some CPU time dirties.

A pattern knows how far it is; `write` moves it on by some nanoseconds of CPU time, which a throttled guest gets less
of (`workload.py`). Randomness comes from a seeded generator.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from vmferry.memory.bitmap import Bitmap
from vmferry.units import NS_PER_S

_FEW, _RARE = 1000, 1 / 64
"""So many writes are drawn one by one, and so many for each page."""


class Pattern(Protocol):
    """The writing of a vCPU, or of several together."""

    def write(self, cpu_ns: int, bitmap: Bitmap) -> None:
        """Mark what is written in `cpu_ns` of CPU time."""
        ...

    def areas(self) -> list[tuple[int, int]]:
        """Return the pages that are ever written, as (first page, page count)."""
        ...


class SweepPattern:
    """The stress program: walk `page_count` pages from `first_page` on, in order, for ever."""

    def __init__(self, first_page: int, page_count: int, pages_per_s: float) -> None:
        self._first_page = first_page
        self._page_count = page_count
        self._pages_per_s = pages_per_s
        self._position = 0.0

    def write(self, cpu_ns: int, bitmap: Bitmap) -> None:
        """Mark the stretch walked, around the end if need be."""
        start = self._position
        end = start + cpu_ns * self._pages_per_s / NS_PER_S
        self._position = end % self._page_count if self._page_count else 0.0
        mark_walk(bitmap, self._first_page, self._page_count, int(start), int(end))

    def areas(self) -> list[tuple[int, int]]:
        return [(self._first_page, self._page_count)]


class UniformPattern:
    """Write pages picked at random, each as likely as the other."""

    def __init__(self, first_page: int, page_count: int, pages_per_s: float, random: np.random.Generator) -> None:
        self._first_page = first_page
        self._page_count = page_count
        self._pages_per_s = pages_per_s
        self._random = random

    def write(self, cpu_ns: int, bitmap: Bitmap) -> None:
        """Draw the pages one by one; or if those are many, mark each with the probability that a write hits it."""
        if not self._page_count:
            return
        writes = cpu_ns * self._pages_per_s / NS_PER_S
        if writes > max(_FEW, _RARE * self._page_count):
            hit = -math.expm1(-writes / self._page_count)
            bitmap.set_by_chance(self._first_page, self._page_count, hit, self._random)
        elif count := int(writes + self._random.random()):
            bitmap.set_pages(self._random.integers(self._page_count, size=count) + self._first_page)

    def areas(self) -> list[tuple[int, int]]:
        return [(self._first_page, self._page_count)]


class Apart:
    """Several patterns that write independently of each other, in the same CPU time."""

    def __init__(self, parts: Sequence[Pattern]) -> None:
        self.parts = parts

    def write(self, cpu_ns: int, bitmap: Bitmap) -> None:
        for part in self.parts:
            part.write(cpu_ns, bitmap)

    def areas(self) -> list[tuple[int, int]]:
        return [area for part in self.parts for area in part.areas()]


def parts_of(pattern: Pattern) -> Sequence[Pattern]:
    """Return the patterns of which one is made, or else itself."""
    return pattern.parts if isinstance(pattern, Apart) else (pattern,)


class HotColdPattern(Apart):
    """Write pages with a Zipf distribution: the page of rank r is as likely as 1 / r^exponent.

    Pages lie in the order of their rank; ranks are put together in octaves, within which all are alike.
    """

    def __init__(
        self, first_page: int, page_count: int, pages_per_s: float, exponent: float, random: np.random.Generator
    ) -> None:
        bounds = [0, *(2**octave for octave in range(page_count.bit_length()) if 2**octave < page_count), page_count]
        starts, ends = (bounds[:-1], bounds[1:]) if page_count else ([], [])
        weights = [_zipf_mass(start, end, exponent) for start, end in zip(starts, ends, strict=True)]
        super().__init__(
            [
                UniformPattern(first_page + start, end - start, pages_per_s * weight / sum(weights), random)
                for start, end, weight in zip(starts, ends, weights, strict=True)
            ]
        )


class HotSpotPattern(Apart):
    """Write at random: `hot_share` of the writes go to the first `hot_count` pages, the others to the rest."""

    def __init__(
        self,
        first_page: int,
        page_count: int,
        pages_per_s: float,
        hot_count: int,
        hot_share: float,
        random: np.random.Generator,
    ) -> None:
        cold_first, cold_count = first_page + hot_count, page_count - hot_count
        super().__init__(
            [
                UniformPattern(first_page, hot_count, pages_per_s * hot_share, random),
                UniformPattern(cold_first, cold_count, pages_per_s * (1 - hot_share), random),
            ]
        )


class MovingPattern:
    """Walk a window of `window_count` pages `rounds` times, then the next window, which begins where it ended.

    The last window goes on at the first page of the area.
    """

    def __init__(self, first_page: int, page_count: int, pages_per_s: float, window_count: int, rounds: int) -> None:
        self._first_page = first_page
        self._page_count = page_count
        self._pages_per_s = pages_per_s
        self._window_count = window_count
        self._stay_writes = window_count * rounds
        self._writes = 0.0

    def write(self, cpu_ns: int, bitmap: Bitmap) -> None:
        """Mark what is walked, window by window."""
        start = int(self._writes)
        self._writes += cpu_ns * self._pages_per_s / NS_PER_S
        end = int(self._writes)
        if end - start >= self._stay_writes * (self._page_count // self._window_count + 2):
            bitmap.set_range(self._first_page, self._page_count)
            return
        while start < end:
            stay, position = divmod(start, self._stay_writes)
            stop = min(end, (stay + 1) * self._stay_writes)
            self._walk_window(stay * self._window_count, position % self._window_count, stop - start, bitmap)
            start = stop

    def _walk_window(self, window: int, position: int, count: int, bitmap: Bitmap) -> None:
        """Mark `count` writes from a position on in the window that begins `window` pages from the start."""
        begin, length = (0, self._window_count) if count >= self._window_count else (position, count)
        until_end = min(length, self._window_count - begin)
        for offset, pages in ((begin, until_end), (0, length - until_end)):
            place = (window + offset) % self._page_count
            mark_walk(bitmap, self._first_page, self._page_count, place, place + pages)

    def areas(self) -> list[tuple[int, int]]:
        return [(self._first_page, self._page_count)]


def mark_walk(bitmap: Bitmap, first_page: int, page_count: int, start: int, end: int) -> None:
    """Mark what a walk from page `start` of an area up to `end` comes by, round and round; `start` lies within."""
    if end - start >= page_count:
        bitmap.set_range(first_page, page_count)
        return
    until_end = min(end, page_count) - start
    bitmap.set_range(first_page + start, until_end)
    bitmap.set_range(first_page, end - start - until_end)


def _zipf_mass(start: int, end: int, exponent: float) -> float:
    """Approximate the sum of 1 / r^exponent over the ranks start + 1 to end by the integral between the halves."""
    low, high = start + 0.5, end + 0.5
    if abs(exponent - 1) < 1e-9:
        return float(np.log(high / low))
    return float((high ** (1 - exponent) - low ** (1 - exponent)) / (1 - exponent))
