"""Memory is made present where pages arrive, a little ahead of them, and in no hole."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.support.kvm import wait_until
from vmferry.errors import HostError
from vmferry.guests.kvm import populate as populate_module
from vmferry.guests.kvm.populate import Populator
from vmferry.guests.kvm.ram import GuestRam
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns

MIB_PAGES = 256
PAGES = 1024 * MIB_PAGES
BATCH = 4 * MIB_PAGES


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with closing(GuestRam(PAGES * 4096)) as ram:
        yield ram


@pytest.fixture
def populator(ram: GuestRam) -> Iterator[Populator]:
    with closing(Populator(ram.slots()[0].address, ram.size_bytes)) as populator:
        yield populator


def present(ram: GuestRam) -> Bitmap:
    pages = Bitmap(PAGES)
    ram.find_touched(pages)
    return pages


def test_pages_in_a_row_are_followed_by_memory_that_is_present(ram: GuestRam, populator: Populator) -> None:
    for number in range(8):
        populator.about_to_fill(PageRuns.of([(number * BATCH, BATCH)]))
    wait_until(lambda: present(ram).test(8 * BATCH + 20 * MIB_PAGES))
    assert present(ram).count() <= 8 * BATCH + 66 * MIB_PAGES


def test_pages_far_from_one_another_take_no_more_than_what_lies_at_them(ram: GuestRam, populator: Populator) -> None:
    islands = [100 * number * MIB_PAGES for number in range(10)]
    for first in islands:
        populator.about_to_fill(PageRuns.of([(first, BATCH)]))
        wait_until(lambda first=first: present(ram).test(first + BATCH - 1))  # type: ignore[misc]
    assert present(ram).count() <= len(islands) * (BATCH + 2 * MIB_PAGES)


def test_scattered_pages_take_nothing(ram: GuestRam, populator: Populator) -> None:
    populator.about_to_fill(PageRuns.of([(number * MIB_PAGES, 1) for number in range(500)]))
    populator.about_to_fill(PageRuns.of([(600 * MIB_PAGES, 1)]))
    wait_until(lambda: present(ram).test(600 * MIB_PAGES))
    assert present(ram).count() <= 2 * MIB_PAGES


def test_with_prealloc_all_is_present_and_stays_so() -> None:
    pages = Bitmap(16 * MIB_PAGES)
    with closing(GuestRam(16 << 20, prealloc=True)) as ram:
        for _ in range(2):
            ram.find_touched(pages)
            assert pages.count() == pages.page_count
            ram.pages(5, 1)[:1] = b"x"
            ram.clear_pages(PageRuns.of([(0, pages.page_count)]))
            assert not ram.pages(5, 1)[0]


def test_what_the_host_does_not_have_is_not_asked_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(populate_module, "available_bytes", lambda: 15 << 20)
    with pytest.raises(HostError, match="cannot prepare 16 MiB of guest memory ahead, the host has 15 MiB left; give"):
        GuestRam(16 << 20, prealloc=True)


@pytest.mark.parametrize(("first", "count"), [(0, 2048), (1, 2046), (511, 2), (512, 512), (600, 100), (5, 0)])
def test_clearing_leaves_what_lies_around_it(ram: GuestRam, first: int, count: int) -> None:
    ram.pages(0, 2048)[:] = b"x" * (2048 * 4096)
    ram.clear_pages(PageRuns.of([(first, count)] if count else []))
    zero = ram.zero_pages(PageRuns.of([(0, 2048)]))
    assert zero.nonzero()[0].tolist() == list(range(first, first + count))
