"""What is known of a guest whose migration is found again, by the journal of who followed it before."""

from collections.abc import Iterable, Iterator, Sequence

from vmferry.convergence.written import Written
from vmferry.experiment.dirty_samples import dirty_samples
from vmferry.migration.events import Started
from vmferry.migration.journal import Entry, split_migrations

_NEWEST = 100
"""So many measurements are taken into account."""


def learnt_from(entries: Iterable[Entry]) -> tuple[Written, ...]:
    """Return how the guest was found to write when that was measured. Raises UsageError for what cannot be."""
    return tuple(written for part in split_migrations(entries) for written in _measured(part))[-_NEWEST:]


def _measured(entries: Sequence[Entry]) -> Iterator[Written]:
    started = entries[0].event
    assert isinstance(started, Started)
    for sample in dirty_samples(entries, started.page_count, "the journal so far"):
        if sample.within and sample.wall_ns:
            yield Written(sample.wall_ns, sample.cpu_ns / sample.wall_ns, sample.pages * started.page_size)
