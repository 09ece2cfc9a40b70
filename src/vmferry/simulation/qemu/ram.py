"""What of a guest's memory is still to be sent, and what was (QEMU `migration/ram.c`)."""

from dataclasses import dataclass

from vmferry.memory.bitmap import Bitmap
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.qemu.dirty_log import CHUNK_PAGES, ModelledDirtyLog
from vmferry.units import PAGE_SIZE_BYTES

PAGE_BYTES_ON_WIRE = PAGE_SIZE_BYTES + 8
ZERO_PAGE_BYTES_ON_WIRE = 9


@dataclass(frozen=True)
class Taken:
    """Numbers of pages that are sent together."""

    normal_pages: int = 0
    """Those with content."""
    zero_pages: int = 0
    fresh_pages: int = 0
    """Those with content for which the destination has no memory yet."""


class Ram:
    """The pages that wait to be sent: at first all of them."""

    def __init__(self, guest: SimulatedGuest, log: ModelledDirtyLog) -> None:
        self.normal_pages = self.zero_pages = 0
        """How many pages with content were sent so far."""
        self.total_pages = self.waiting_pages = guest.layout.page_count
        self._guest = guest
        self._log = log
        self._waiting = Bitmap(self.total_pages)
        self._waiting.set_all()
        self._unarmed = [True] * log.chunk_count
        self._cursor = 0
        self._used_end = guest.used_end
        self._populated = Bitmap(self.total_pages)
        """The pages for which the destination has memory."""

    @property
    def waiting_bytes(self) -> int:
        """The size of what is left to send, as far as is known."""
        return self.waiting_pages * PAGE_SIZE_BYTES

    @property
    def is_behind_used(self) -> bool:
        """True if nothing but zero pages is taken next, unless all of them were taken."""
        return self._cursor >= self._used_end

    def is_waiting(self, page: int) -> bool:
        """Tell whether a page is known to be left to send."""
        return self._waiting.test(page)

    def sync(self) -> int:
        """Add what was written. Returns how many pages were not waiting already; arming is put off until they go."""
        self._log.sync()
        found = self._log.unclaimed
        new_pages = found.count_and_not(self._waiting)
        self._waiting |= found
        found.clear_all()
        self.waiting_pages += new_pages
        self._unarmed = [True] * len(self._unarmed)
        return new_pages

    def take(self, max_pages: int) -> Taken:
        """Take pages to send, arming what they lie in."""
        pages = self._waiting.take(self._cursor, max_pages)
        if not pages:
            return Taken()
        for chunk in range(pages.first_page // CHUNK_PAGES, pages.last_page // CHUNK_PAGES + 1):
            if self._unarmed[chunk]:
                self._unarmed[chunk] = False
                self._log.arm(chunk)
        is_zero = self._guest.zero_pages(pages)
        zero_pages = int(is_zero.sum())
        normal_pages = pages.page_count - zero_pages
        fresh_pages = 0
        if self._populated.missing(pages):
            fresh_pages = int((~is_zero & ~self._populated.test_runs(pages)).sum())
            self._populated.set_runs(pages)
        self._cursor = (pages.last_page + 1) % self.total_pages
        self.waiting_pages -= pages.page_count
        self.normal_pages += normal_pages
        self.zero_pages += zero_pages
        return Taken(normal_pages, zero_pages, fresh_pages)
