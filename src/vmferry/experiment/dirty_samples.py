"""What a recorded guest wrote, sample by sample: some CPU time, and how many pages were written in it at least once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from vmferry.errors import UsageError
from vmferry.migration.events import Decided, Measured, Synced, ThrottleSeen
from vmferry.migration.journal import Entry

_MAX_NS = 2**62
_MAX_SYNCS = 16
"""The syncs that lie between two polls from outside count as this many samples at most."""


@dataclass(frozen=True)
class DirtySample:
    """What a sync found: `pages` were written in `cpu_ns` of CPU time, of `wall_ns` in all."""

    wall_ns: int
    cpu_ns: int
    pages: int
    within: bool = False
    """True for a measurement within an interval between two syncs, which has a sample of its own."""


def why_no_samples(entries: Sequence[Entry]) -> str:
    """Say why a migration without samples has none."""
    if any(isinstance(entry.event, Synced) and entry.event.iteration_count > 1 for entry in entries):
        return "the journal does not tell how many pages were dirtied"
    return "the migration ended in its first pass over the memory"


def dirty_samples(entries: Sequence[Entry], page_count: int, where: str) -> Iterator[DirtySample]:
    """Yield what each sync of a migration found, from the second on; the last, of the stopped guest, left out.

    So are those of which nobody told how much they found. What was measured is yielded too, but for estimates and for
    windows that held syncs, as one cannot tell which page was counted when.
    """
    rewritten_pages = _rewritten_pages(entries)
    clock = _CpuClock(entries[0].time_ns, where)
    before: Synced | None = None
    for entry in entries:
        clock.advance(entry.time_ns)
        event = entry.event
        if isinstance(event, Decided):
            clock.throttle(event.effective_percent)
        elif isinstance(event, ThrottleSeen):
            clock.throttle(event.throttle_percent)
        elif isinstance(event, Measured) and event.mode != "page-sampling" and not event.sync_count:
            cpu_ns = event.window_ns * (100 - clock.throttle_percent) // 100
            yield from _checked(event.window_ns, cpu_ns, event.dirty_pages, 1, page_count, where, within=True)
        elif isinstance(event, Synced) and event.kind != "last":
            pages = _written_pages(event, rewritten_pages)
            if before and pages is not None:
                syncs = min(max(1, event.dirty_sync_count - before.dirty_sync_count), _MAX_SYNCS)
                yield from _checked(clock.since_sync_ns(entry.time_ns), clock.cpu_ns, pages, syncs, page_count, where)
            before = event
            clock.sync(entry.time_ns)


class _CpuClock:
    """How much time has passed since the last sync, and how much of it the throttle left to the guest."""

    def __init__(self, now_ns: int, where: str) -> None:
        self.cpu_ns = 0
        self.throttle_percent = 0
        self._now_ns = self._synced_ns = now_ns
        self._where = where

    def advance(self, now_ns: int) -> None:
        """Let time pass. An entry may be a little older than the one before it, never a sync."""
        passed_ns = max(0, now_ns - self._now_ns)
        self._now_ns += passed_ns
        self.cpu_ns += passed_ns * (100 - self.throttle_percent) // 100

    def since_sync_ns(self, now_ns: int) -> int:
        return now_ns - self._synced_ns

    def throttle(self, percent: int) -> None:
        if not 0 <= percent <= 99:
            raise UsageError(f"{self._where}: throttle {percent} % cannot be")
        self.throttle_percent = percent

    def sync(self, now_ns: int) -> None:
        self._synced_ns, self.cpu_ns = now_ns, 0


def _checked(
    wall_ns: int, cpu_ns: int, pages: int, syncs: int, page_count: int, where: str, *, within: bool = False
) -> Iterator[DirtySample]:
    """Yield the samples of so many syncs of about equal length. Raises UsageError for what cannot be."""
    if not (0 <= wall_ns <= _MAX_NS and 0 <= pages <= page_count * syncs):
        raise UsageError(f"{where}: {pages} dirty pages after {wall_ns} ns cannot be")
    if cpu_ns >= syncs:
        yield from repeat(DirtySample(wall_ns // syncs, cpu_ns // syncs, pages // syncs, within), syncs)


def _rewritten_pages(entries: Sequence[Entry]) -> int:
    """Return how many pages the guest rewrites, judged by what was left after most syncs or found written."""
    counts = []
    for entry in entries:
        event = entry.event
        if isinstance(event, Synced) and event.newly_dirty_pages is not None and event.waiting_pages is not None:
            counts.append(event.newly_dirty_pages + event.waiting_pages)
        elif isinstance(event, Measured) and not event.sync_count:
            counts.append(event.dirty_pages)
    return sorted(counts)[len(counts) * 3 // 4] if counts else 0


def _written_pages(event: Synced, rewritten_pages: int) -> int | None:
    """Return how many pages a sync found written, in all.

    From outside, those are not seen that waited to be sent anyway. They are taken to be written as often as the others.
    """
    if event.dirty_pages is not None or event.newly_dirty_pages is None or event.waiting_pages is None:
        return event.newly_dirty_pages if event.dirty_pages is None else event.dirty_pages
    newly, waiting = event.newly_dirty_pages, event.waiting_pages
    if waiting >= rewritten_pages:
        return newly
    return min(newly + waiting, newly * rewritten_pages // (rewritten_pages - waiting))
