"""Which pages are still to be sent: the bitmaps of a migration and both kinds of dirty sync.

Invariant: a page whose content at the destination is older than at the source is always in the
guest's dirty log, in `transfer`, or in `next`. It rests on two habits: the log of a page is re-armed
before its content is read, and a page leaves `next` only if it was sent after it got there.
Source: the seed's `iter_bmap` and `shadow_bmap`; QEMU `migration/ram.c` for the merging mode.
"""

from vmferry.convergence.watcher import BackgroundSync
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.migration.ports import Guest


class RamState:
    """The bitmaps of one migration of `page_count` pages, all of them to be sent at first."""

    def __init__(self, page_count: int, background_sync: BackgroundSync) -> None:
        self.transfer = Bitmap(page_count)
        self.transfer.set_all()
        self.remaining_pages = page_count
        self._mode = background_sync
        self._log = Bitmap(page_count)
        self._cursor = 0
        # Only background syncs that preserve the running iteration need these two.
        preserving = page_count if background_sync is BackgroundSync.PRESERVE else 0
        self._next = Bitmap(preserving)
        self._snapshot = Bitmap(preserving)
        self._next_in_use = False
        self.again_pages = 0
        """What background syncs that preserve the running iteration have found for the next one, as of the last."""

    @property
    def dirty_pages(self) -> int:
        """How many pages the last sync found dirty, those included that were to be sent anyway."""
        return self._log.count()

    def take(self, max_pages: int) -> PageRuns:
        """Remove up to `max_pages` pages from the transfer bitmap, in ascending order, and return them.

        The search goes on where it stopped and wraps around. The caller must read the content of the
        pages after this call, not before.
        """
        pages = self.transfer.take(self._cursor, max_pages)
        self.remaining_pages -= pages.page_count
        if len(pages):
            self._cursor = (pages.last_page + 1) % self.transfer.page_count
        return pages

    def iteration_sync(self, guest: Guest) -> int:
        """Begin the next iteration: all that is dirty is to be sent. Return the newly dirty ones' number."""
        if self._next_in_use:
            self._drop_sent()
        newly_dirty_pages = self._collect(guest)
        self.transfer |= self._log
        if self._next_in_use:
            self.transfer |= self._next
            self._next.clear_all()
            self._snapshot.clear_all()
            self._next_in_use = False
        self.remaining_pages = self.transfer.count()
        self.again_pages = 0
        return newly_dirty_pages

    def background_sync(self, guest: Guest) -> int:
        """Look what was dirtied inside an iteration. Return the number of newly dirty pages."""
        if self._mode is BackgroundSync.MERGE:
            newly_dirty_pages = self._collect(guest)
            self.transfer |= self._log
            self.remaining_pages += newly_dirty_pages
            return newly_dirty_pages
        self._drop_sent()
        newly_dirty_pages = self._collect(guest)
        self._next |= self._log
        self._snapshot.copy_from(self.transfer)
        self._next_in_use = True
        self.again_pages = self._next.count_and_not(self.transfer)
        return newly_dirty_pages

    def _drop_sent(self) -> None:
        """Take out of `next` what was pending at the last background sync and has been sent since."""
        self._snapshot.and_not(self.transfer)
        self._next.and_not(self._snapshot)

    def _collect(self, guest: Guest) -> int:
        guest.collect_dirty(self._log)
        return self._log.count_and_not(self.transfer)
