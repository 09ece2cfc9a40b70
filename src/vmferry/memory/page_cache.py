"""A bounded cache of pages as they were last sent, so that of a page that is sent again only what changed has to go.

Each page has one place, which it shares with others (QEMU `migration/page_cache.c`). Whoever is in it stays if it was
sent in this round or the one before; so pages that would drive each other out, round for round, leave one of them in.
"""

import numpy as np
from numpy.typing import NDArray

_LIFETIME_ROUNDS = 2
_NOBODY = -1


class PageCache:
    """Holds what `slot_count` pages of `page_words` words held, at most; memory is taken as pages come in.

    The numbers of pages that are given at once are different from each other.
    """

    def __init__(self, slot_count: int, page_words: int) -> None:
        self._slot_count = slot_count
        self._page = np.full(slot_count, _NOBODY, np.int64)
        self._round = np.full(slot_count, -_LIFETIME_ROUNDS, np.int64)
        self._content = np.zeros((slot_count, page_words), np.uint64)
        self.round = 0
        """The current one; it may only grow."""

    def holds(self, pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return one flag for each page: is it here?"""
        flags: NDArray[np.bool_] = self._page[self._slots(pages)] == pages
        return flags

    def content(self, pages: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return a copy of what these pages held, which are all here, one row for each."""
        return self._content[self._slots(pages)]

    def store(self, pages: NDArray[np.int64], content: NDArray[np.uint64]) -> None:
        """Take note of what pages hold: of all that are here, and then of the first ones that find a place.

        `content` has one row for each page, or one for all.
        """
        slots = self._slots(pages)
        here = self._page[slots] == pages
        self._round[slots[here]] = self.round
        comes = np.flatnonzero(~here & (self._round[slots] + _LIFETIME_ROUNDS <= self.round))
        comes = comes[np.unique(slots[comes], return_index=True)[1]]
        stored = np.concatenate((np.flatnonzero(here), comes))
        slots = slots[stored]
        self._page[slots], self._round[slots] = pages[stored], self.round
        self._content[slots] = np.broadcast_to(content, (len(pages), content.shape[-1]))[stored]

    def _slots(self, pages: NDArray[np.int64]) -> NDArray[np.int64]:
        slots: NDArray[np.int64] = pages % self._slot_count
        return slots
