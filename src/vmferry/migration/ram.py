"""Which pages are still to be sent: the bitmaps of a migration and both kinds of dirty sync.

The guest writes its pages while they are sent, so a page may have to be sent again. Three sets tell where each stands:

- The *dirty log* is the guest's own: the pages that were written since each was last *armed*. A *sync* looks at it.
- `transfer` holds what this iteration still has to send.
- `next` holds what background syncs have found in this iteration and the next one will send. These pages stay out of
  `transfer`, so that the running iteration does not grow.

A page that waits in `transfer` need not be logged: it will be sent anyway, with what it holds then. So it is armed
late, when `take` takes it to be read. A sync arms what does not wait, so that each period counts its own writes of
pages in `next`, and the early pages (`early_pages.py`), which tell how much the guest writes. With `Rearm.EARLY`, all
pages are early: then a page that is written between the sync and its own sending is sent twice.

Syncs count as *newly dirty* only what is not in `transfer`. A page that waits would have been sent anyway, so that it
was written once more makes the migration no longer.

Invariant: a page whose content at the destination is older than at the source is always in the dirty log, in
`transfer`, or in `next`. It rests on two habits: a page is armed before its content is read, and one that is armed
without being taken is in `transfer` or in `next`.

Source: QEMU `migration/ram.c` (`clear_bmap`; the mode that merges, in which a background sync adds what it finds to
`transfer`, and `next` is not used), and the seed's `iter_bmap`. Its `shadow_bmap`, by which it takes out of `next` what
was sent after it got there, is not needed: what waits does not get there.
"""

from vmferry.convergence.watcher import BackgroundSync
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.migration.early_pages import EarlyPages, WrittenPages
from vmferry.migration.ports import Guest


class RamState:
    """The bitmaps of one migration of `guest`, whose dirty log is on.

    At first all pages are to be sent that were ever touched: the others are zero at the destination, too.
    """

    written: WrittenPages | None = None
    """How many pages the last sync found written since the one before, whether they waited or not; None if unknown."""

    def __init__(self, guest: Guest, background_sync: BackgroundSync, early: EarlyPages) -> None:
        page_count = guest.layout.page_count
        self.transfer = Bitmap(page_count)
        guest.find_touched(self.transfer)
        self.remaining_pages = self.transfer.count()
        self._guest = guest
        self._mode = background_sync
        self._early = early
        self._log, self._found = Bitmap(page_count), Bitmap(page_count)
        self._cursor = 0
        self._guest_stands_still = False
        # Only background syncs that preserve the running iteration need it.
        self._next = Bitmap(page_count if background_sync is BackgroundSync.PRESERVE else 0)
        self.again_pages = 0
        """How many pages were sent in this iteration and had been written again by the last background sync."""

    def take(self, max_pages: int) -> PageRuns:
        """Remove up to `max_pages` pages from the transfer bitmap, in ascending order, arm and return them.

        The search goes on where it stopped and wraps around. The caller must read the content of the
        pages after this call, not before.
        """
        pages = self.transfer.take(self._cursor, max_pages)
        self.remaining_pages -= pages.page_count
        if pages:
            self._cursor = (pages.last_page + 1) % self.transfer.page_count
            self._arm_taken(pages)
        return pages

    def iteration_sync(self) -> int:
        """Begin the next iteration, which sends all that is dirty. Return how many pages are newly dirty."""
        newly_dirty_pages = self._begin_iteration()
        self._arm_others()
        return newly_dirty_pages

    def last_sync(self) -> int:
        """Begin the last iteration of a guest that stands still, which is not armed any more."""
        self._guest_stands_still = True
        return self._begin_iteration()

    def background_sync(self) -> int:
        """Find out inside an iteration what was dirtied. Return how many pages are newly dirty.

        Where no background syncs are made, a policy may ask for one all the same; it merges.
        """
        newly_dirty_pages = self._collect()
        if self._mode is not BackgroundSync.PRESERVE:
            self.transfer |= self._log
            self.remaining_pages += newly_dirty_pages
        else:
            self._next.or_and_not(self._log, self.transfer)
            self.again_pages = self._next.count()
        self._arm_others()
        return newly_dirty_pages

    def _begin_iteration(self) -> int:
        newly_dirty_pages = self._collect()
        self.transfer |= self._log
        if self.again_pages:
            self.transfer |= self._next
            self._next.clear_all()
            self.again_pages = 0
        self.remaining_pages = self.transfer.count()
        return newly_dirty_pages

    def _collect(self) -> int:
        self._guest.collect_dirty(self._log)
        self.written = self._early.written(self._log)
        return self._log.count_and_not(self.transfer)

    def _arm_taken(self, pages: PageRuns) -> None:
        if not self._guest_stands_still and (late := self._early.pages.missing(pages)):
            self._guest.arm(late)

    def _arm_others(self) -> None:
        """Arm what the sync has found and `take` is not going to arm."""
        self._found.become_and_not(self._log, self.transfer)
        self._early.take_over(self._log, self._found)
        self._guest.arm(PageRuns.of_words(0, self._found.words))
        self._early.synced(self.transfer, self.remaining_pages)
