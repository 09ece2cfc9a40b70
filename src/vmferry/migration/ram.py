"""Which pages are still to be sent: the bitmaps of a migration and both kinds of dirty sync.

The guest writes its pages while they are sent, so a page may have to be sent again. Four sets tell where each stands:

- The *dirty log* is the guest's own: the pages that were written since it was last collected. A *sync* collects it.
- `transfer` holds what this iteration still has to send. `take` removes a page before its content is read, so a write
  that comes later puts the page into the log again.
- `next` holds what background syncs have found in this iteration and the next one will send. These pages stay out of
  `transfer`, so that the running iteration does not grow.
- `snapshot` is what `transfer` was at the last background sync.

The snapshot saves pages from being sent twice. A page that was written while it waited is both in `transfer` and in
`next`. When it is sent, its newest content goes out, and `next` need not keep it. A page in the snapshot that has left
`transfer` was sent after the sync that found it dirty, so it is dropped from `next`. One that was sent before that sync
is not in the snapshot, and stays.

Syncs count as *newly dirty* only what is not in `transfer`. A page that waits would have been sent anyway, so that it
was written once more makes the migration no longer.

Invariant: a page whose content at the destination is older than at the source is always in the dirty log, in
`transfer`, or in `next`. It rests on two habits: the log of a page is re-armed before its content is read, and a page
leaves `next` only if it was sent after it got there.

Source: the seed's `iter_bmap` and `shadow_bmap`; QEMU `migration/ram.c` for the mode that merges, in which a background
sync adds what it finds to `transfer`, and `next` and `snapshot` are not used.
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
        """How many pages were sent in this iteration and had been written again by the last background sync."""

    @property
    def dirty_pages(self) -> int:
        """How many pages the last sync found dirty, whether or not they waited to be sent anyway."""
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
        """Begin the next iteration, which sends all that is dirty. Return how many pages are newly dirty."""
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
        """Find out inside an iteration what was dirtied. Return how many pages are newly dirty."""
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
