"""Guest RAM: an anonymous file in memory, mapped into this process as one piece.

Pages never written take no memory. Reading one through the mapping would allocate it, so the file is asked
first where its holes are.
"""

import mmap
import os
from collections.abc import Iterator

import numpy as np
import xxhash
from numpy.typing import NDArray

from vmferry.errors import HostError, UsageError
from vmferry.guests.kvm.dirty_log import Slot
from vmferry.guests.kvm.vm import memory_address
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.memory.pages import zero_pages
from vmferry.memory.ranges import PageRuns

HOLE_GPA = 3 << 30
"""Below 4 GiB, devices have addresses from here on."""

HIGH_GPA = 4 << 30
ALIGNMENT_BYTES = 1 << 20
MIN_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


class GuestRam:
    """`size_bytes` of zeroed guest memory, a multiple of 1 MiB. Raises UsageError or HostError."""

    def __init__(self, size_bytes: int) -> None:
        if size_bytes % ALIGNMENT_BYTES or size_bytes < MIN_BYTES:
            raise UsageError(
                f"a guest cannot have {size_bytes} bytes of memory; give it a multiple of 1 MiB, at least 16 MiB"
            )
        self.size_bytes = size_bytes
        self._file = os.memfd_create("guest-ram", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self._file, size_bytes)
            # SAFETY: shared with the guest's vCPUs, which write it at any time, and mapped until this object
            # is gone; KVM's slots refer to it, so the VM must be closed first.
            self._map = mmap.mmap(self._file, size_bytes, mmap.MAP_SHARED)
        except OSError as error:
            os.close(self._file)
            raise HostError(f"cannot get {size_bytes} bytes for a guest: {error.strerror}", error.errno) from error
        self.view = memoryview(self._map)
        self._pages: NDArray[np.uint64] = np.frombuffer(self._map, np.uint64).reshape(-1, PAGE_SIZE_BYTES // 8)

    def slots(self) -> list[Slot]:
        """Return the memory slots: one below the hole, and one above 4 GiB if it does not all fit there."""
        address, page_count = memory_address(self.view), self.size_bytes // PAGE_SIZE_BYTES
        low_pages = min(page_count, HOLE_GPA // PAGE_SIZE_BYTES)
        slots = [Slot(0, 0, low_pages, 0, address)]
        if page_count > low_pages:
            slots.append(Slot(1, low_pages, page_count - low_pages, HIGH_GPA, address + HOLE_GPA))
        return slots

    def pages(self, first_page: int, page_count: int) -> memoryview:
        """Return a writable view of some pages."""
        return self.view[first_page * PAGE_SIZE_BYTES : (first_page + page_count) * PAGE_SIZE_BYTES]

    def zero_pages(self, pages: PageRuns) -> NDArray[np.bool_]:
        """Return one flag for each page, in order: does it hold only zero bytes?"""
        if self._is_hole(pages):
            return np.ones(pages.page_count, np.bool_)
        return zero_pages(self._pages, pages)

    def clear_pages(self, pages: PageRuns) -> None:
        """Make pages zero by giving their memory back."""
        for first, count in pages:
            self._map.madvise(mmap.MADV_REMOVE, first * PAGE_SIZE_BYTES, count * PAGE_SIZE_BYTES)

    def digest(self) -> bytes:
        """Return a digest of the content; a hole counts as the zeros that it reads as."""
        digest = xxhash.xxh3_128()
        buffer = bytearray(_CHUNK_BYTES)
        zeros = bytes(_CHUNK_BYTES)
        for offset in self._chunks_with_data():
            # Through the file, not the mapping: a hole within the chunk stays one.
            os.preadv(self._file, [buffer], offset)
            if buffer != zeros:
                digest.update(offset.to_bytes(8, "little"))
                digest.update(buffer)
        return digest.digest()

    def close(self) -> None:
        """Give the file back; the mapping goes with the last view of it."""
        os.close(self._file)

    def _is_hole(self, pages: PageRuns) -> bool:
        """True if the pages lie side by side and none of them was ever written."""
        if len(pages) != 1:
            return False
        first = int(pages.first[0]) * PAGE_SIZE_BYTES
        return self._next_data(first) >= first + int(pages.count[0]) * PAGE_SIZE_BYTES

    def _chunks_with_data(self) -> Iterator[int]:
        offset = 0
        while (offset := self._next_data(offset)) < self.size_bytes:
            offset -= offset % _CHUNK_BYTES
            yield offset
            offset += _CHUNK_BYTES

    def _next_data(self, offset: int) -> int:
        if offset >= self.size_bytes:
            return self.size_bytes
        try:
            return os.lseek(self._file, offset, os.SEEK_DATA)
        except OSError:  # ENXIO: only a hole from there on
            return self.size_bytes
