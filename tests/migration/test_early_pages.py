"""What early pages tell of all: exactly where that can be, and within the error that they state."""

import numpy as np
import pytest

from vmferry.memory.bitmap import Bitmap
from vmferry.migration.early_pages import EarlyPages, WrittenPages
from vmferry.settings.choices import Rearm

PAGES = 1 << 20


def bitmap_of(*ranges: tuple[int, int]) -> Bitmap:
    bitmap = Bitmap(PAGES)
    for first, count in ranges:
        bitmap.set_range(first, count)
    return bitmap


def late_pages() -> EarlyPages:
    return EarlyPages.of(PAGES, Rearm.LATE)


def test_one_of_sixteen_pages_is_early_wherever_one_looks() -> None:
    pages = late_pages().pages
    assert pages.count() == PAGES // 16
    whole = pages.words.reshape(-1, 16)
    assert (np.count_nonzero(whole, axis=1) == 1).all()
    assert len(set(np.argmax(whole, axis=1))) == 16, "where in the 16 is chance"


def test_all_pages_of_a_small_guest_are_early() -> None:
    pages = EarlyPages.of(4090, Rearm.LATE).pages
    assert pages.count() == pages.page_count == 4090
    assert EarlyPages.of(1 << 14, Rearm.LATE).pages.count() == 1 << 12


def test_with_all_pages_early_everything_is_counted() -> None:
    early = EarlyPages.of(PAGES, Rearm.EARLY)
    early.synced(bitmap_of((0, 1000)), 1000)
    assert early.written(bitmap_of((10, 3), (5000, 7))) == WrittenPages(10, 0)


def test_what_did_not_wait_is_counted() -> None:
    early = late_pages()
    early.synced(bitmap_of(), 0)
    assert early.written(bitmap_of((10, 3), (5000, 7))) == WrittenPages(10, 0)


def test_too_few_early_pages_tell_nothing() -> None:
    early = late_pages()
    early.synced(bitmap_of((0, 100)), 100)
    assert early.written(bitmap_of((10, 3))) is None


def test_a_stretch_that_was_written_is_estimated_nearly_exactly() -> None:
    early = late_pages()
    estimate = early.written(bitmap_of((100_000, 200_000)))
    assert estimate
    assert abs(estimate.count - 200_000) < 2000
    assert 0 < estimate.standard_error < 2000


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_what_is_written_by_chance_lies_within_the_stated_error(share: float) -> None:
    """Of 100 guests, about 68 lie within one standard error of the truth, and about 95 within two."""
    random, within = np.random.default_rng(1), np.zeros(2, int)
    waiting = bitmap_of((0, PAGES // 2))
    for _ in range(100):
        early = late_pages()
        early.synced(waiting, PAGES // 2)
        pages = random.choice(PAGES, round(PAGES * share), replace=False)
        log = Bitmap(PAGES)
        log.set_pages(pages)
        estimate = early.written(log)
        assert estimate
        within += abs(estimate.count - len(pages)) <= estimate.standard_error * np.array([1, 2])
    assert 50 <= within[0] <= 85
    assert within[1] >= 88
