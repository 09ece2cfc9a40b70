"""Makes the dirty syncs of a migration, and counts and records what they find."""

from collections.abc import Callable

from vmferry.convergence.link import LinkWatch
from vmferry.migration.events import Synced
from vmferry.migration.ports import Clock, Guest, Journal
from vmferry.migration.ram import RamState
from vmferry.migration.stats import Counters


class DirtySync:
    """The syncs of one migration. Each of them returns the size of what was newly dirty."""

    def __init__(
        self,
        guest: Guest,
        clock: Clock,
        journal: Journal,
        counters: Counters,
        link: LinkWatch,
        ram: RamState,
    ) -> None:
        self.ram = ram
        self._guest = guest
        self._clock = clock
        self._journal = journal
        self._counters = counters
        self._link = link

    @property
    def remaining_bytes(self) -> int:
        """Size of the pages that are known to be still to be sent."""
        return self.ram.remaining_pages * self._guest.layout.page_size

    def iteration(self) -> int:
        """Begin an iteration with a sync."""
        self._counters.iteration_count += 1
        return self._sync("iteration", self.ram.iteration_sync)

    def background(self) -> int:
        """Look what was dirtied inside an iteration."""
        return self._sync("background", self.ram.background_sync)

    def last(self) -> int:
        """Collect what the guest dirtied before it was stopped."""
        return self._sync("last", self.ram.last_sync)

    def _sync(self, kind: str, sync: Callable[[], int]) -> int:
        start_ns = self._clock.now_ns()
        newly_dirty_pages = sync()
        duration_ns = self._clock.now_ns() - start_ns
        self._link.pass_over(duration_ns)
        self._counters.dirty_sync_count += 1
        self._counters.sync_ns += duration_ns
        self._counters.dirty_bytes_last_sync = self.remaining_bytes
        written = self.ram.written
        event = Synced(
            kind=kind,
            dirty_sync_count=self._counters.dirty_sync_count,
            iteration_count=self._counters.iteration_count,
            newly_dirty_pages=newly_dirty_pages,
            remaining_pages=self.ram.remaining_pages,
            duration_ns=duration_ns,
            dirty_pages=written.count if written else None,
            dirty_pages_error=written.standard_error if written else None,
            zero_pages=self._counters.zero_pages,
        )
        self._journal.record(self._clock.now_ns(), event)
        return newly_dirty_pages * self._guest.layout.page_size
