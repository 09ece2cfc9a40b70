"""Reads the stress payload's progress and checks that guest memory is one consistent moment.

The payload writes, for ever and in order, one stamp into each page of each vCPU's share: the number of the
vCPU in the top byte, below it how many pages it has written, this one included. So in a moment in which
a vCPU has written n pages of a share of c, page j of the share carries the largest number <= n that
leaves the remainder j + 1 when divided by c, or zero if there is none yet. The page about to be reported
may be one step ahead. Layout: `stress.c`, `struct progress`.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmferry.errors import GuestError

PAGE_BYTES = 4096
WORDS_PER_PAGE = PAGE_BYTES // 8
HIGH_MEMORY = 4 << 30

_HEADER = struct.Struct("<QIIQQQII16x")
_VCPU = struct.Struct("<QQQ40x")
_MAGIC = 0x7373657274736676
_VERSION = 1
_MAX_VCPUS = 255
_COUNT_MASK = (1 << 56) - 1
_XOR_PATTERN = 0x5AA5A55A3CC3C33C

PROGRESS_GPA = 0x10000
PROGRESS_BYTES = _HEADER.size + _MAX_VCPUS * _VCPU.size


@dataclass(frozen=True)
class VcpuProgress:
    """How far one vCPU has come in its share of `page_count` pages from number `first_page` on."""

    number: int
    first_page: int
    page_count: int
    written_pages: int

    @property
    def passes(self) -> int:
        """Complete walks over the share."""
        return self.written_pages // self.page_count if self.page_count else 0


@dataclass(frozen=True)
class StressProgress:
    """The payload's progress area. Page 0 of the stressed pages is at guest physical address `base`."""

    vcpus: tuple[VcpuProgress, ...]
    base: int
    low_end: int
    xor_mode: bool

    @property
    def written_pages(self) -> int:
        """Pages written since the start, by all vCPUs."""
        return sum(vcpu.written_pages for vcpu in self.vcpus)

    @property
    def passes(self) -> int:
        """Complete walks of the vCPU that has made the fewest."""
        return min((vcpu.passes for vcpu in self.vcpus), default=0)

    @property
    def page_count(self) -> int:
        """Stressed pages of all vCPUs."""
        return sum(vcpu.page_count for vcpu in self.vcpus)


def read_progress(area: bytes | memoryview) -> StressProgress:
    """Return the progress from the PROGRESS_BYTES bytes at PROGRESS_GPA.

    Raises GuestError if no stress payload has got that far.
    """
    magic, version, vcpu_count, _, base, low_end, xor_mode, _ = _HEADER.unpack_from(area)
    if magic != _MAGIC or version != _VERSION or vcpu_count > _MAX_VCPUS:
        raise GuestError("the guest does not run this stress payload, or has not started it yet")
    vcpus = []
    for number in range(vcpu_count):
        first_page, page_count, stamp = _VCPU.unpack_from(area, _HEADER.size + number * _VCPU.size)
        vcpus.append(VcpuProgress(number, first_page, page_count, stamp & _COUNT_MASK))
    return StressProgress(tuple(vcpus), base, low_end, bool(xor_mode))


def check_memory(ram: memoryview) -> StressProgress:
    """Check all of a stopped guest's memory, `ram` being RAM without the hole below 4 GiB.

    Returns the progress. Raises GuestError that names the first page that is wrong.
    """
    progress = read_progress(ram[PROGRESS_GPA : PROGRESS_GPA + PROGRESS_BYTES])
    pages = np.frombuffer(ram, np.uint64).reshape(-1, WORDS_PER_PAGE)
    first_row = progress.base // PAGE_BYTES
    if first_row + progress.page_count > len(pages):
        raise GuestError("the guest's progress area names more pages than it has memory")
    for vcpu in progress.vcpus:
        rows = pages[first_row + vcpu.first_page :][: vcpu.page_count]
        _check_share(vcpu, rows, progress.xor_mode)
    return progress


def expected_stamps(vcpu: VcpuProgress, written_pages: int) -> NDArray[np.uint64]:
    """Return the stamps of a vCPU's pages after it has written that many."""
    number = np.arange(1, vcpu.page_count + 1, dtype=np.int64)
    rounds = (written_pages - number) // vcpu.page_count
    stamps = (number + rounds * vcpu.page_count).astype(np.uint64) | np.uint64(vcpu.number << 56)
    stamps[rounds < 0] = 0
    return stamps


def _check_share(vcpu: VcpuProgress, rows: NDArray[np.uint64], xor_mode: bool) -> None:
    if not vcpu.page_count:
        return
    stamps = rows[:, 0]
    now, one_ahead = (expected_stamps(vcpu, vcpu.written_pages + ahead) for ahead in (0, 1))
    wrong = np.flatnonzero((stamps != now) & (stamps != one_ahead))
    if len(wrong):
        page = int(wrong[0])
        raise GuestError(
            f"memory is not one moment: vCPU {vcpu.number} has written {vcpu.written_pages} pages, but its page "
            f"{page} carries stamp {int(stamps[page]):#x} instead of {int(now[page]):#x} ({len(wrong)} pages wrong)"
        )
    if xor_mode:
        _check_other_words(vcpu, rows)


def _check_other_words(vcpu: VcpuProgress, rows: NDArray[np.uint64]) -> None:
    """In xor mode, all other words of a page have been flipped once in each pass; one page may be halfway."""
    number = np.arange(vcpu.page_count, dtype=np.int64)
    flips = (vcpu.written_pages - number + vcpu.page_count - 1) // vcpu.page_count
    expected = np.where(flips % 2, np.uint64(_XOR_PATTERN), np.uint64(0))
    wrong = np.flatnonzero((rows[:, 1:] != expected[:, None]).any(axis=1))
    wrong = wrong[wrong != vcpu.written_pages % vcpu.page_count]
    if len(wrong):
        raise GuestError(f"page {int(wrong[0])} of vCPU {vcpu.number} was not changed as a whole")
