"""Reads the stress payload's progress and checks that guest memory is one consistent moment.

Each vCPU goes over the pages of its share for ever and writes a stamp into each: the number of the vCPU in the top
byte, below it how many pages it has written, this one included. The number of a write tells its page (`page_order.py`).
So in a moment in which a vCPU has written n pages, each page of its share carries the largest number <= n that belongs
to it, or zero if there is none. The page about to be reported may be one step ahead. What else is in a page is known,
too: what it was filled with, flipped once for each time it was written in mode xor. Layout: `stress.h`.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vmferry.errors import GuestError
from vmferry.guests.payload.page_order import MAX_WRITES, PageOrder, PagePattern, mixed
from vmferry.units import PAGE_SIZE_BYTES

WORDS_PER_PAGE = PAGE_SIZE_BYTES // 8

_HEADER = struct.Struct("<QIIQQQ24x")
_VCPU = struct.Struct("<QQQIIQQIIII")
_MAGIC = 0x7373657274736676
_VERSION = 2
_MAX_VCPUS = 255
_TOUCH, _XOR, _READ = range(3)
_WHOLE_SHARE = 65536
_XOR_PATTERN = np.uint64(0x5AA5A55A3CC3C33C)
_FILL_FACTOR, _FILL_TERM = 0x5851F42D4C957F2D, 0x14057B7EF767814F
_CHECKED_PAGES = 4096
"""How many pages are checked at once; they take 16 MiB."""

PROGRESS_GPA = 0x10000
PROGRESS_BYTES = _HEADER.size + _MAX_VCPUS * _VCPU.size


class _Entry(NamedTuple):
    """What the progress area has of one vCPU, as `stress.h` tells."""

    first_page: int
    page_count: int
    stamp: int
    order: int
    access: int
    window: int
    rounds: int
    hot_share: int
    fill_words: int
    ready: int
    unused: int

    @property
    def is_possible(self) -> bool:
        """Whether a payload may have written this of a vCPU that has pages."""
        is_known = self.order in list(PagePattern) and self.access in (_TOUCH, _XOR, _READ)
        fits = self.fill_words < WORDS_PER_PAGE and self.hot_share <= _WHOLE_SHARE
        return is_known and fits and 0 < self.window <= self.page_count and self.rounds > 0


@dataclass(frozen=True)
class VcpuProgress:
    """How far one vCPU has come in its share of `page_count` pages from number `first_page` on."""

    number: int
    first_page: int
    page_count: int
    written_pages: int
    """How many it has written since the start, or read if it is a reader."""
    order: PageOrder
    reads: bool = False
    """True if it only reads."""
    flips: bool = False
    """True in mode xor: all other words of a page change with the first."""
    fill_words: int = 0
    """How many words of each page, from the second on, were filled before it began."""
    ready: bool = True
    """True when it has begun, its pages being filled."""

    @property
    def passes(self) -> int:
        """How often it has written as many pages as its share has."""
        return self.written_pages // self.page_count if self.page_count else 0


@dataclass(frozen=True)
class StressProgress:
    """The payload's progress area. Page 0 of the stressed pages is at guest physical address `base`."""

    vcpus: tuple[VcpuProgress, ...]
    base: int

    @property
    def written_pages(self) -> int:
        """Pages written since the start by all vCPUs, or read by readers."""
        return sum(vcpu.written_pages for vcpu in self.vcpus)

    @property
    def passes(self) -> int:
        """Complete rounds of the vCPU that has made the fewest."""
        return min((vcpu.passes for vcpu in self.vcpus if vcpu.page_count), default=0)

    @property
    def ready(self) -> bool:
        """True when all vCPUs have begun."""
        return all(vcpu.ready for vcpu in self.vcpus if vcpu.page_count)

    @property
    def page_count(self) -> int:
        """Stressed pages of all vCPUs."""
        return sum(vcpu.page_count for vcpu in self.vcpus)


def read_progress(area: bytes | memoryview) -> StressProgress:
    """Return the progress from the PROGRESS_BYTES bytes at PROGRESS_GPA.

    Raises GuestError if no stress payload has got that far.
    """
    magic, version, vcpu_count, _, base, _ = _HEADER.unpack_from(area)
    if magic != _MAGIC or version != _VERSION or vcpu_count > _MAX_VCPUS:
        raise GuestError("the guest does not run this stress payload, or has not started it yet")
    places = (_HEADER.size + number * _VCPU.size for number in range(vcpu_count))
    vcpus = tuple(_vcpu(number, _Entry(*_VCPU.unpack_from(area, place))) for number, place in enumerate(places))
    return StressProgress(vcpus, base)


def _vcpu(number: int, entry: _Entry) -> VcpuProgress:
    if entry.page_count and not entry.is_possible:
        raise GuestError(f"the guest's progress area is damaged where it tells of vCPU {number}")
    hot_share = entry.hot_share / _WHOLE_SHARE
    return VcpuProgress(
        number,
        entry.first_page,
        entry.page_count,
        written_pages=entry.stamp & MAX_WRITES,
        order=PageOrder(PagePattern(entry.order), entry.page_count, entry.window, entry.rounds, hot_share, number),
        reads=entry.access == _READ,
        flips=entry.access == _XOR,
        fill_words=entry.fill_words,
        ready=bool(entry.ready),
    )


def check_memory(ram: memoryview) -> StressProgress:
    """Check all of a stopped guest's memory, `ram` being RAM without the hole below 4 GiB.

    Returns the progress. Raises GuestError that names the first page that is wrong.
    """
    progress = read_progress(ram[PROGRESS_GPA : PROGRESS_GPA + PROGRESS_BYTES])
    pages = np.frombuffer(ram, np.uint64).reshape(-1, WORDS_PER_PAGE)
    first_row = progress.base // PAGE_SIZE_BYTES
    if first_row + progress.page_count > len(pages):
        raise GuestError("the guest's progress area names more pages than it has memory")
    for vcpu in progress.vcpus:
        rows = pages[first_row + vcpu.first_page :][: vcpu.page_count]
        if len(rows) and vcpu.ready:
            _check_share(vcpu, rows)
    return progress


def expected_stamps(vcpu: VcpuProgress, written_pages: int) -> NDArray[np.uint64]:
    """Return the stamps of a vCPU's pages after it has written that many."""
    if vcpu.reads:
        return np.zeros(vcpu.page_count, np.uint64)
    newest = vcpu.order.newest_writes(written_pages)
    return np.where(newest, newest | np.uint64(vcpu.number << 56), np.uint64(0))


def _check_share(vcpu: VcpuProgress, rows: NDArray[np.uint64]) -> None:
    stamps, now = rows[:, 0], expected_stamps(vcpu, vcpu.written_pages)
    wrong = stamps != now
    next_page = int(vcpu.order.pages_of(np.array([vcpu.written_pages + 1], np.uint64))[0])
    if stamps[next_page] == vcpu.number << 56 | vcpu.written_pages + 1 and not vcpu.reads:
        wrong[next_page] = False  # one step ahead
    if wrong.any():
        page = int(wrong.argmax())
        raise GuestError(
            f"memory is not one moment: vCPU {vcpu.number} has written {vcpu.written_pages} pages, but its page "
            f"{page} carries stamp {int(stamps[page]):#x} instead of {int(now[page]):#x} "
            f"({np.count_nonzero(wrong)} pages wrong)"
        )
    if vcpu.flips or vcpu.fill_words:
        _check_other_words(vcpu, rows, next_page)


def _check_other_words(vcpu: VcpuProgress, rows: NDArray[np.uint64], next_page: int) -> None:
    """Check what the pages hold beside their stamps; in mode xor the next one may be halfway."""
    for start, expected in _expected_other_words(vcpu):
        wrong = (rows[start : start + len(expected), 1:] != expected).any(axis=1)
        if vcpu.flips and start <= next_page < start + len(wrong):
            wrong[next_page - start] = False
        if wrong.any():
            raise GuestError(f"page {start + int(wrong.argmax())} of vCPU {vcpu.number} was not changed as a whole")


def _expected_other_words(vcpu: VcpuProgress) -> Iterator[tuple[int, NDArray[np.uint64]]]:
    """Yield the number of a page in the share, and all words but the first of it and of those behind it."""
    for start in range(0, vcpu.page_count, _CHECKED_PAGES):
        number = np.arange(start, min(start + _CHECKED_PAGES, vcpu.page_count), dtype=np.uint64)
        words = np.zeros((len(number), WORDS_PER_PAGE - 1), np.uint64)
        value = mixed(number + np.uint64(vcpu.first_page + 1))
        for word in range(vcpu.fill_words):
            value = value * np.uint64(_FILL_FACTOR) + np.uint64(_FILL_TERM)
            words[:, word] = value
        if vcpu.flips:
            flips = (vcpu.written_pages - number.astype(np.int64) + vcpu.page_count - 1) // vcpu.page_count
            words[flips % 2 == 1] ^= _XOR_PATTERN
        yield start, words
