"""Makes guest memory present before it is filled.

A destination's memory does not exist before it is written, and its page faults, not the copying, bound how fast it
can be filled. So a thread of its own takes them, on another processor, for the pages that are about to arrive and a
stretch ahead of them. As a guest's memory has holes, the stretch is no longer than what came before without one: what
is made present for nothing is less than what was filled. Or all memory is made present before the guest comes.
"""

import ctypes
import os
import threading
from pathlib import Path

from vmferry.errors import HostError
from vmferry.guests.kvm.fd import libc
from vmferry.memory.ranges import PageRuns
from vmferry.units import PAGE_SIZE_BYTES, format_size

_MADV_POPULATE_WRITE = 23
"""Linux 5.14, <asm-generic/mman-common.h>: fault pages in as a write would, without changing them."""

_STEP_BYTES = 2 << 20
_AHEAD_BYTES = 64 << 20
"""More memory than this is never taken for pages that turn out to be zero."""
_DENSE_SHARE = 0.5
"""Pages that are fewer than this share of those they lie among are not worth taking all of these."""

_madvise = libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Populator:
    """Works on `size_bytes` of memory at `address`, which must stay mapped until `close`."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self._address = address
        self._size_bytes = size_bytes
        self._offset = 0
        self._goal = 0
        self._filled_to = 0
        """Where the last pages end, and how many bytes have come in a row up to there."""
        self._in_a_row = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._populate, name="populate", daemon=True)
        self._thread.start()

    def about_to_fill(self, pages: PageRuns) -> None:
        """Say that these pages are next, and if they follow the last ones, those after them are likely to be so."""
        start, end = int(pages.first[0]) * PAGE_SIZE_BYTES, (pages.last_page + 1) * PAGE_SIZE_BYTES
        if pages.page_count * PAGE_SIZE_BYTES < _DENSE_SHARE * (end - start):
            return
        follows = abs(start - self._filled_to) <= _STEP_BYTES
        ahead = min(self._in_a_row, _AHEAD_BYTES) if follows else 0
        self._in_a_row = ahead + end - start
        self._filled_to = end
        with self._changed:
            self._offset = max(self._offset, start)
            self._goal = min(end + ahead, self._size_bytes)
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _populate(self) -> None:
        while step := self._next_step():
            offset, size_bytes = step
            # SAFETY: the range lies within the memory, which outlives the thread; its content does not change. An
            # error (an old kernel, no memory) only means that the faults come later, one by one.
            _madvise(self._address + offset, size_bytes, _MADV_POPULATE_WRITE)

    def _next_step(self) -> tuple[int, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._offset < self._goal)
            offset, self._offset = self._offset, min(self._offset + _STEP_BYTES, max(self._goal, self._offset))
            return None if self._closing else (offset, self._offset - offset)


def populate(address: int, size_bytes: int) -> None:
    """Make all of this mapped memory present. Raises HostError."""
    if size_bytes > (left_bytes := available_bytes()):
        raise HostError(
            f"cannot prepare {format_size(size_bytes)} of guest memory ahead, the host has {format_size(left_bytes)} "
            "left; give the guest less, or leave out --prealloc"
        )
    # SAFETY: the range is mapped, and its content does not change.
    if _madvise(address, size_bytes, _MADV_POPULATE_WRITE):
        error = ctypes.get_errno()
        raise HostError(f"cannot prepare guest memory ahead: {os.strerror(error)}; leave out --prealloc", error)


def available_bytes() -> int:
    """Return how much memory the host can give without swapping (`MemAvailable` in /proc/meminfo)."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) << 10
