"""The pages that every dirty sync arms, though they wait to be sent: by them one knows what was written since.

A page that waits is armed just before it is sent, so the log does not tell whether it was written since the last sync
or before. How many *distinct* pages the guest writes between two syncs, each counted once, is therefore counted where
it can be:

- Of the pages that did not wait at the last sync, the log tells all.
- Of those that waited, it does so of the *early pages* only, which syncs arm, and sending does not. They are one run of
  64 pages, chosen by chance, of each 16 in a row. What is found among them is scaled up to all that waited.

Neighbours are written alike, so each early run stands for those around it, and how much two that follow each other
differ tells how far the estimate may be off (the successive difference estimator of systematic samples, Wolter,
Introduction to Variance Estimation, chapter 8). Early pages that are written while they wait are sent twice, a
sixteenth of what arming all of them at every sync would cost.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from vmferry.memory.bitmap import Bitmap
from vmferry.settings.choices import Rearm

_RUNS_PER_EARLY_ONE = 16
_MIN_EARLY_RUNS = 64
"""A guest of no more than so many runs, 16 MiB, has no other pages."""


@dataclass(frozen=True)
class WrittenPages:
    """How many pages were written between two syncs, each counted once."""

    count: int
    standard_error: int
    """By how much the count is off, typically; 0 if every page was counted."""


class EarlyPages:
    """Which pages are early, given as numbers of runs of 64, and what they tell from sync to sync."""

    def __init__(self, page_count: int, runs: NDArray[np.int64]) -> None:
        self.pages = Bitmap(page_count)
        self._runs = runs
        everything = Bitmap(page_count)
        everything.set_all()
        self.pages.words[self._runs] = everything.words[self._runs]
        self._waited = everything
        self._waited_pages = page_count

    @classmethod
    def of(cls, page_count: int, rearm: Rearm) -> Self:
        """Return those of a guest: all pages, or some chosen by chance."""
        return cls(page_count, _every_run(page_count) if rearm is Rearm.EARLY else _some_runs(page_count))

    def take_over(self, source: Bitmap, target: Bitmap) -> None:
        """Make `target` hold exactly those early pages that `source` holds; its other pages stay."""
        target.words[self._runs] = source.words[self._runs]

    def synced(self, waiting: Bitmap, waiting_pages: int) -> None:
        """Say which pages wait after a sync."""
        self._waited.copy_from(waiting)
        self._waited_pages = waiting_pages

    def written(self, log: Bitmap) -> WrittenPages | None:
        """Return how many pages were written since the last sync, or None if too few early ones waited to tell."""
        others = log.count_and_not(self._waited)
        waited_words = self._waited.words[self._runs]
        used = np.flatnonzero(waited_words)
        waited = np.bitwise_count(waited_words[used]).astype(np.float64)
        written = np.bitwise_count(log.words[self._runs][used] & waited_words[used]).astype(np.float64)
        known_pages = waited.sum()
        if known_pages == self._waited_pages:
            return WrittenPages(others + int(written.sum()), 0)
        if len(used) < 2:
            return None
        share = written.sum() / known_pages
        differences = np.diff(written - share * waited)
        variance = len(used) / (2 * (len(used) - 1)) * float(differences @ differences)
        scale = self._waited_pages / known_pages
        error = scale * np.sqrt(variance * (1 - 1 / scale))
        return WrittenPages(others + round(share * self._waited_pages), round(error))


def _every_run(page_count: int) -> NDArray[np.int64]:
    return np.arange((page_count + 63) // 64)


def _some_runs(page_count: int) -> NDArray[np.int64]:
    """Return one of each 16 runs in a row, or of fewer in a small guest: the same ones in every guest of that size."""
    runs = _every_run(page_count)
    step = min(_RUNS_PER_EARLY_ONE, max(1, len(runs) // _MIN_EARLY_RUNS))
    chosen = runs[::step] + np.random.default_rng(0).integers(step, size=len(runs[::step]))
    return chosen[chosen < len(runs)]
