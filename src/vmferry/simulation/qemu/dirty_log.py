"""Which pages a guest has written, as KVM logs it and QEMU collects it.

KVM keeps the bit of a page until QEMU arms the page again, which it does for a GiB at a time, just before it sends the
first page of it (`KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2`, `ram.c`: `migration_clear_memory_region_dirty_bitmap`). Until
then every sync finds the bit once more. What a sync finds waits in QEMU's own bitmap until a migration takes it, so it
is not lost whoever made the sync.
"""

from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.simulation.guest import SimulatedGuest

CHUNK_PAGES = 1 << 18
"""How many pages are armed at once, by QEMU's `clear-bitmap-shift` of 18."""
_WORD_PAGES = 64


class ModelledDirtyLog:
    """The log of one guest; a migration and a measurement may use it at the same time."""

    def __init__(self, guest: SimulatedGuest) -> None:
        page_count = guest.layout.page_count
        self.unclaimed = Bitmap(page_count)
        """Pages that syncs have found and no migration has taken yet."""
        self.found_pages = 0
        """How many bits all syncs together have found."""
        self._guest = guest
        self._written = Bitmap(page_count)
        """The bits that KVM has set."""
        self._told = Bitmap(page_count)
        """Those of KVM's bits that QEMU knows of; arming clears no others."""
        self._fresh = Bitmap(page_count)
        self._everything = PageRuns.of([(0, page_count)])
        self._users = 0
        self._witnesses: list[Bitmap] = []

    def start(self) -> None:
        """Log for one more user. At first all bits are set (`KVM_DIRTY_LOG_INITIALLY_SET`)."""
        if not self._users:
            self._collect()
            self._guest.start_dirty_log()
            self._written.set_all()
        self._users += 1

    def stop(self) -> None:
        """End the log when its last user has no need of it any more."""
        self._users -= 1
        if not self._users:
            self._guest.stop_dirty_log()

    def sync(self) -> None:
        """Tell QEMU which pages were written since each was armed."""
        self._collect()
        self._told.copy_from(self._written)
        self.unclaimed |= self._written
        self.found_pages += self._written.count()

    def arm(self, chunk: int) -> None:
        """Log anew what is written to a chunk from now on; what the last sync has not told stays logged."""
        self._collect()
        words = slice(chunk * CHUNK_PAGES // _WORD_PAGES, (chunk + 1) * CHUNK_PAGES // _WORD_PAGES)
        self._written.words[words] &= ~self._told.words[words]
        self._told.words[words] = 0

    def arm_all(self) -> None:
        """Arm every chunk."""
        for chunk in range(self.chunk_count):
            self.arm(chunk)

    def witness(self) -> Bitmap:
        """Return a set to which what is written from now on is added, whether it is logged or not."""
        self._collect()
        witness = Bitmap(self._written.page_count)
        self._witnesses.append(witness)
        return witness

    def dismiss(self, witness: Bitmap) -> None:
        """Bring such a set up to date, for the last time."""
        self._collect()
        self._witnesses = [other for other in self._witnesses if other is not witness]

    @property
    def chunk_count(self) -> int:
        """How many chunks there are."""
        return -(-self._written.page_count // CHUNK_PAGES)

    def _collect(self) -> None:
        self._guest.collect_dirty(self._fresh)
        self._guest.arm(self._everything)
        self._written |= self._fresh
        for witness in self._witnesses:
            witness |= self._fresh
