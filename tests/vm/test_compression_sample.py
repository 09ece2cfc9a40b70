"""How small pages become is found out from pages that a migration would send."""

import numpy as np
import pytest

from vmferry.testing.memory_guest import WORDS_PER_PAGE, MemoryGuest
from vmferry.vm.compression_sample import sample_compression

RANDOM = np.random.default_rng(7)
PAGES = 8192


def guest(used_pages: int, noise_share: float) -> MemoryGuest:
    """A guest whose last pages hold that much noise each, and zeros."""
    guest = MemoryGuest(PAGES)
    words = round(noise_share * WORDS_PER_PAGE)
    guest.ram[PAGES - used_pages :, :words] = RANDOM.integers(1, 1 << 63, size=(used_pages, words))
    return guest


@pytest.mark.parametrize(("noise_share", "ratio"), [(1.0, 1.0), (1 / 3, 3.0), (1 / 2, 2.0)])
def test_the_ratio_is_that_of_pages_that_are_not_zero(noise_share: float, ratio: float) -> None:
    sample = sample_compression(guest(1000, noise_share), 1, 1, RANDOM)
    assert 512 <= sample.page_count < 512 + 64
    assert sample.ratio == pytest.approx(ratio, rel=0.03)
    assert sample.bytes_per_s


def test_a_guest_of_two_kinds_of_pages_is_between_them() -> None:
    mixed = guest(PAGES, 1.0)
    mixed.ram[: PAGES // 2, WORDS_PER_PAGE // 4 :] = 0
    ratio = sample_compression(mixed, 1, 1, np.random.default_rng(1)).ratio
    assert ratio
    assert 1.1 < ratio < 3


def test_few_pages_among_many_that_are_zero_are_found() -> None:
    prepared = guest(64, 1 / 4)
    prepared.find_touched = lambda bitmap: bitmap.set_all()  # type: ignore[method-assign]  # as memory that is all there
    prepared.ram[::128, 0] = 1
    sample = sample_compression(prepared, 1, 1, RANDOM)
    assert 0 < sample.page_count < 512


def test_a_guest_that_has_written_nothing_has_no_ratio() -> None:
    sample = sample_compression(guest(0, 1.0), 1, 4, RANDOM)
    assert (sample.page_count, sample.ratio, sample.bytes_per_s) == (0, None, None)
