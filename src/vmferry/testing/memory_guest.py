"""A guest of plain memory: its "vCPU" is the test, which calls `write`. It keeps the contract of guests."""

from collections.abc import Callable

import numpy as np
import xxhash
from numpy.typing import NDArray

from vmferry.errors import PeerError
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.pages import zero_pages
from vmferry.memory.ranges import PageRuns
from vmferry.units import PAGE_SIZE_BYTES

WORDS_PER_PAGE = PAGE_SIZE_BYTES // 8


class MemoryGuest:
    """Implements the engine's `Guest` port, and `view` for channels that reach into guest memory."""

    def __init__(self, page_count: int, vcpu_count: int = 1, running: bool = True) -> None:
        self.layout = GuestLayout((RamBlock("pc.ram", page_count),), vcpu_count)
        self.ram = np.zeros((page_count, WORDS_PER_PAGE), np.uint64)
        """One row of words for each page."""
        self.running = running
        self.logging = False
        self.throttle_percent = 0
        self.max_throttle_percent = 0
        self.state = b"registers"
        self._log = Bitmap(page_count)

    def write(self, page: int, value: int) -> None:
        """Write the first word of a page, as the running guest."""
        assert self.running
        self.ram[page, 0] = value
        if self.logging:
            self._log.set_range(page, 1)

    def is_logged(self, page: int) -> bool:
        """Return whether a page has been written since it was last armed."""
        return self._log.test(page)

    def view(self, first_page: int, page_count: int) -> memoryview:
        """Return a writable view of the bytes of some pages."""
        return self.ram[first_page : first_page + page_count].data.cast("B")

    def pause(self) -> None:
        """Take no more writes."""
        self.running = False

    def resume(self) -> None:
        """Take writes."""
        self.running = True

    def set_throttle(self, percent: int) -> None:
        """Take note of the throttle; who writes may look at it."""
        self.throttle_percent = percent
        self.max_throttle_percent = max(self.max_throttle_percent, percent)

    def find_touched(self, bitmap: Bitmap) -> None:
        """Tell which pages hold something."""
        bitmap.clear_all()
        bitmap.set_pages(np.flatnonzero(self.ram.any(axis=1)))

    def start_dirty_log(self) -> None:
        """Start recording which pages are written."""
        self.logging = True
        self._log.clear_all()

    def stop_dirty_log(self) -> None:
        """Stop recording."""
        self.logging = False

    def collect_dirty(self, bitmap: Bitmap) -> None:
        """Tell what was written since each page was last armed."""
        assert self.logging
        bitmap.copy_from(self._log)

    def arm(self, pages: PageRuns) -> None:
        """Forget what was written to these pages."""
        assert self.logging
        self._log.clear_runs(pages)

    def zero_pages(self, pages: PageRuns) -> NDArray[np.bool_]:
        """Return one flag for each page of `pages`: does it hold only zero bytes?"""
        return zero_pages(self.ram, pages)

    def clear_pages(self, pages: PageRuns) -> None:
        """Make these pages hold only zero bytes."""
        self.ram[pages.indices()] = 0

    def save_state(self) -> bytes:
        """Return the state, of which there is nearly none."""
        assert not self.running
        return self.state

    def load_state(self, blob: bytes) -> None:
        """Take a state over. Raises PeerError if it is none."""
        if not blob.startswith(b"registers"):
            raise PeerError("the guest's state is malformed")
        self.state = blob

    def memory_digest(self, page_count: int | None = None, while_reading: Callable[[], None] = lambda: None) -> bytes:
        """Return a digest of the first pages, or of all."""
        while_reading()
        return xxhash.xxh3_128_digest(self.ram[:page_count].data)
