"""Guest RAM: private anonymous memory, mapped into this process as one piece.

Pages never written take no memory: reading them shows the kernel's zero page. Huge pages are asked for, because
filling a guest's memory is bound by page faults otherwise (see docs/kvm.md).
"""

import mmap
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import xxhash
from numpy.typing import NDArray

from vmferry.errors import HostError, UsageError
from vmferry.guests.kvm.dirty_log import Slot
from vmferry.guests.kvm.populate import populate
from vmferry.guests.kvm.touched import find_touched
from vmferry.guests.kvm.vm import memory_address
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.pages import zero_pages
from vmferry.memory.ranges import PageRuns
from vmferry.units import PAGE_SIZE_BYTES, format_size

HOLE_GPA = 3 << 30
"""Below 4 GiB, devices have addresses from here on."""

HIGH_GPA = 4 << 30
ALIGNMENT_BYTES = 1 << 20
MIN_BYTES = 16 << 20
MAX_BYTES = 4 << 40
"""A memory slot has at most 2^31 - 1 pages (Linux `include/linux/kvm_host.h`, KVM_MEM_MAX_NR_PAGES)."""

_DIGEST_PAGES = 1024
"""How much a digest reads at once: 4 MiB, which take a millisecond at the worst."""

_HUGE_PAGE_PAGES = 512

_MAP_NORESERVE = 0x4000
"""Linux <asm-generic/mman.h>; Python's mmap module does not have it."""


class GuestRam:
    """`size_bytes` of zeroed guest memory, a multiple of 1 MiB; all of it is present from the start with `prealloc`.

    Raises UsageError or HostError.
    """

    def __init__(self, size_bytes: int, prealloc: bool = False) -> None:
        if size_bytes % ALIGNMENT_BYTES or not MIN_BYTES <= size_bytes <= MAX_BYTES:
            raise UsageError(
                f"a guest cannot have {format_size(size_bytes)} of memory; "
                "give it a multiple of 1 MiB from 16 MiB to 4 TiB"
            )
        self.size_bytes = size_bytes
        try:
            # SAFETY: written by the guest's vCPUs at any time, and mapped until the last view of it is gone;
            # KVM's slots refer to it, so the VM must be closed before this object is let go.
            self._map = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE)
            self._map.madvise(mmap.MADV_HUGEPAGE)
        except OSError as error:
            raise HostError(f"cannot get {size_bytes} bytes for a guest: {error.strerror}", error.errno) from error
        self.view = memoryview(self._map)
        self._address = memory_address(self.view)
        self._gives_back = not prealloc
        if prealloc:
            populate(self._address, size_bytes)
        self._pages: NDArray[np.uint64] = np.frombuffer(self._map, np.uint64).reshape(-1, PAGE_SIZE_BYTES // 8)

    def slots(self) -> list[Slot]:
        """Return the memory slots: one below the hole, and one above 4 GiB if it does not all fit there."""
        address, page_count = self._address, self.size_bytes // PAGE_SIZE_BYTES
        low_pages = min(page_count, HOLE_GPA // PAGE_SIZE_BYTES)
        slots = [Slot(0, 0, low_pages, 0, address)]
        if page_count > low_pages:
            slots.append(Slot(1, low_pages, page_count - low_pages, HIGH_GPA, address + HOLE_GPA))
        return slots

    def pages(self, first_page: int, page_count: int) -> memoryview:
        """Return a writable view of some pages."""
        return self.view[first_page * PAGE_SIZE_BYTES : (first_page + page_count) * PAGE_SIZE_BYTES]

    def find_touched(self, bitmap: Bitmap) -> None:
        """Overwrite `bitmap` with the pages that may hold something else than zero bytes."""
        find_touched(self._address, bitmap)

    def zero_pages(self, pages: PageRuns) -> NDArray[np.bool_]:
        """Return one flag for each page, in order: does it hold only zero bytes?"""
        return zero_pages(self._pages, pages)

    def clear_pages(self, pages: PageRuns) -> None:
        """Make pages zero: whole huge pages by giving them back. Giving back a part of one would split it."""
        for first, count in pages:
            end = first + count
            given_first, given_end = -(-first // _HUGE_PAGE_PAGES) * _HUGE_PAGE_PAGES, end - end % _HUGE_PAGE_PAGES
            if given_first < given_end and self._gives_back:
                size_bytes = (given_end - given_first) * PAGE_SIZE_BYTES
                self._map.madvise(mmap.MADV_DONTNEED, given_first * PAGE_SIZE_BYTES, size_bytes)
            else:
                given_first = given_end = end
            self._pages[first:given_first] = 0
            self._pages[given_end:end] = 0

    def digest(self, page_count: int, while_reading: Callable[[], None]) -> bytes:
        """Return a digest of the digests of all pieces of the first pages. Pieces that nobody has touched are not read.

        `while_reading` is called after each piece that is read, and may raise.
        """
        digests = np.empty((-(-page_count // _DIGEST_PAGES), 16), np.uint8)
        digests[:] = np.frombuffer(xxhash.xxh3_128_digest(bytes(_DIGEST_PAGES * PAGE_SIZE_BYTES)), np.uint8)
        for piece in self._touched_pieces(page_count):
            first = piece * _DIGEST_PAGES
            data = self.pages(first, min(_DIGEST_PAGES, page_count - first))
            digests[piece] = np.frombuffer(xxhash.xxh3_128_digest(data), np.uint8)
            while_reading()
        return xxhash.xxh3_128_digest(digests.data)

    def _touched_pieces(self, page_count: int) -> list[int]:
        """Return the numbers of the pieces of the first pages that are to be read; a shorter last one always is."""
        touched = Bitmap(self.size_bytes // PAGE_SIZE_BYTES)
        self.find_touched(touched)
        whole = page_count // _DIGEST_PAGES
        words = touched.words[: whole * _DIGEST_PAGES // 64].reshape(whole, _DIGEST_PAGES // 64)
        return [*np.flatnonzero(words.any(axis=1)).tolist(), *range(whole, -(-page_count // _DIGEST_PAGES))]

    def close(self) -> None:
        """Give the memory back; if somebody still holds a view of it, together with the last view."""
        self.view.release()
        self._pages = np.empty((0, 0), np.uint64)
        with suppress(BufferError):
            self._map.close()
