"""Which page of its share a vCPU of the stress payload writes at its n-th write; `work.c` does the same sums."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

MAX_WRITES = (1 << 56) - 1
"""What a stamp can count."""
_MIX_1, _MIX_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
_HALF = np.uint64(32)
_CHANCE_BITS = np.uint64(0xFFFF)
_CHUNK_WRITES = 1 << 20


class PagePattern(IntEnum):
    """What tells the next page (`stress.h`)."""

    WALK = 0
    UNIFORM = 1
    HOT_SPOT = 2


@dataclass(frozen=True)
class PageOrder:
    """The order in which a vCPU writes the pages of its share. Writes are counted from 1, pages from 0."""

    order: PagePattern
    page_count: int
    window: int
    """WALK: how many pages are walked before the next ones; HOT_SPOT: how many are hot."""
    rounds: int
    """WALK: how often."""
    hot_share: float
    """HOT_SPOT: what of the writes goes to the hot pages."""
    number: int
    """The vCPU's."""

    def pages_of(self, writes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the page of each write."""
        if self.order is PagePattern.WALK:
            return self._walked(writes)
        chance = mixed(writes | np.uint64(self.number << 56))
        high = chance >> _HALF
        hot_count = self.window if self.order is PagePattern.HOT_SPOT else 0
        cold_count = self.page_count - hot_count
        hot = (high * np.uint64(hot_count)) >> _HALF
        cold = np.uint64(hot_count) + ((high * np.uint64(cold_count)) >> _HALF)
        hot_share = self.hot_share if cold_count else 1.0
        is_hot = (chance & _CHANCE_BITS) < hot_share * (int(_CHANCE_BITS) + 1) if hot_count else np.False_
        return np.where(is_hot, hot, cold).astype(np.int64)

    def newest_writes(self, count: int) -> NDArray[np.uint64]:
        """Return for each page the newest of the first `count` writes that came to it, 0 if there was none."""
        newest = np.zeros(self.page_count, np.uint64)
        while count > 0 and not newest.all():
            writes = np.arange(max(1, count - _CHUNK_WRITES + 1), count + 1, dtype=np.uint64)
            latest = np.zeros_like(newest)
            np.maximum.at(latest, self.pages_of(writes), writes)
            newest = np.where(newest, newest, latest)
            count -= len(writes)
        return newest

    def _walked(self, writes: NDArray[np.uint64]) -> NDArray[np.int64]:
        before = writes.astype(np.int64) - 1
        begin = before // (self.window * self.rounds) * self.window
        return np.asarray((begin + before % self.window) % self.page_count, np.int64)


def mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return numbers that look like chance, the same for the same ones."""
    mixed = numbers * _MIX_1
    mixed ^= mixed >> _HALF
    mixed *= _MIX_2
    return np.asarray(mixed ^ (mixed >> _HALF), np.uint64)
