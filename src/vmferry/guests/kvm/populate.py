"""Makes guest memory present ahead of where a migration is about to fill it.

A destination's memory does not exist before it is written, and its page faults, not the copying, bound how fast it
can be filled. A thread of its own takes them, on another processor, for a stretch ahead of the pages that arrive.
"""

import ctypes
import threading

from vmferry.guests.kvm.fd import libc
from vmferry.memory.layout import PAGE_SIZE_BYTES

_MADV_POPULATE_WRITE = 23
"""Linux 5.14, <asm-generic/mman-common.h>: fault pages in as a write would, without changing them."""

_STEP_BYTES = 2 << 20
_AHEAD_BYTES = 64 << 20
"""More memory than this is never taken for pages that turn out to be zero."""

_madvise = libc.madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Populator:
    """Works on `size_bytes` of memory at `address`, which must stay mapped until `close`."""

    def __init__(self, address: int, size_bytes: int) -> None:
        self._address = address
        self._size_bytes = size_bytes
        self._offset = 0
        self._goal = 0
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._populate, name="populate", daemon=True)
        self._thread.start()

    def filled_up_to(self, page: int) -> None:
        """Say that this page is filled and those after it are likely to be next."""
        offset = page * PAGE_SIZE_BYTES
        with self._changed:
            self._offset = max(self._offset, offset - offset % _STEP_BYTES)
            self._goal = min(offset + _AHEAD_BYTES, self._size_bytes)
            self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _populate(self) -> None:
        while (offset := self._next_step()) is not None:
            # SAFETY: the range lies within the memory, which outlives the thread; its content does not change. An
            # error (an old kernel, no memory) only means that the faults come later, one by one.
            _madvise(self._address + offset, min(_STEP_BYTES, self._size_bytes - offset), _MADV_POPULATE_WRITE)

    def _next_step(self) -> int | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._offset < self._goal)
            offset = self._offset
            self._offset += _STEP_BYTES
            return None if self._closing else offset
