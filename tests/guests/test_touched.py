"""Holes are found by the newest interface, by the old one, and are nowhere where neither is there."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import closing

import pytest

from vmferry.guests.kvm import touched
from vmferry.guests.kvm.ram import GuestRam
from vmferry.memory.bitmap import Bitmap

PAGES = (1 << 30) // 4096
HUGE = 512


@pytest.fixture
def ram() -> Iterator[GuestRam]:
    with closing(GuestRam(1 << 30)) as ram:
        for page in (0, 1000, PAGES // 2, PAGES - 1):
            ram.pages(page, 1)[:1] = b"x"
        yield ram


def found(ram: GuestRam) -> Bitmap:
    pages = Bitmap(PAGES)
    pages.set_range(5000, 100)
    ram.find_touched(pages)
    return pages


def check_found(ram: GuestRam) -> None:
    """What was written is found, with the huge pages it may be in, and nothing else."""
    pages = found(ram)
    assert all(pages.test(page) for page in (0, 1000, PAGES // 2, PAGES - 1))
    assert pages.count() <= 4 * HUGE
    assert not pages.test(5000)


@pytest.fixture
def old_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def ioctl(*_: object) -> int:
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))

    monkeypatch.setattr(fcntl, "ioctl", ioctl)


def test_the_kernel_is_asked_by_ranges(ram: GuestRam) -> None:
    check_found(ram)


@pytest.mark.usefixtures("old_kernel")
def test_an_older_kernel_is_asked_page_by_page(ram: GuestRam) -> None:
    check_found(ram)


def test_more_ranges_than_one_call_tells(ram: GuestRam, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = found(ram)
    monkeypatch.setattr(touched, "_REGIONS", 1)
    assert found(ram) == whole


def test_pages_that_were_only_read_are_holes_to_ranges(ram: GuestRam) -> None:
    before = found(ram)
    assert not any(ram.pages(20_000, 10))
    assert found(ram).count_and_not(before) <= HUGE


def test_what_was_given_back_is_a_hole(ram: GuestRam) -> None:
    ram._map.madvise(4)  # MADV_DONTNEED
    assert not found(ram).any()


def test_without_a_page_map_everything_may_be_touched(ram: GuestRam, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(touched, "_PAGEMAP", "/nonexistent")
    assert found(ram).count() == PAGES


def test_a_digest_does_not_depend_on_what_was_touched(ram: GuestRam) -> None:
    with closing(GuestRam(1 << 30)) as other:
        for page in (0, 1000, PAGES // 2, PAGES - 1):
            other.pages(page, 1)[:1] = b"x"
        other.pages(50_000, 3000)[:] = bytes(3000 * 4096)
        for page_count in (PAGES, 5000, 1):
            assert ram.digest(page_count, lambda: None) == other.digest(page_count, lambda: None)
        other.pages(51_000, 1)[4000:4001] = b"y"
        assert ram.digest(PAGES, lambda: None) != other.digest(PAGES, lambda: None)


def test_a_digest_reads_what_was_touched_only(ram: GuestRam) -> None:
    pieces: list[None] = []
    ram.digest(PAGES, lambda: pieces.append(None))
    assert len(pieces) == 3, "pages 0 and 1000 are in the same piece"
    assert found(ram).count() <= 4 * HUGE
