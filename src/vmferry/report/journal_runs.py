"""Makes a RunSeries of a migration's journal.

A journal may come from anyone: numbers that cannot be are refused, texts are cut and freed of control characters, and
time is not let run backwards.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TypeVar

import msgspec

from vmferry.bounds import clean_text
from vmferry.convergence.limits import Limits
from vmferry.errors import UsageError
from vmferry.migration.events import (
    BandwidthWindow,
    Decided,
    Ended,
    Event,
    Lost,
    Measured,
    Ordered,
    Shadowed,
    Started,
    SwitchoverBegan,
    Synced,
    ThrottleSeen,
)
from vmferry.migration.journal import Entry
from vmferry.migration.outcome import Outcome, end_of
from vmferry.migration.status import MigrationStatus
from vmferry.report.deeds import deeds
from vmferry.report.series import Decision, Deed, RunSeries, Series, ShadowDecision
from vmferry.units import NS_PER_S

_MAX_NUMBER = 2**63
_E = TypeVar("_E", bound=Event)


def run_series(
    entries: Sequence[Entry],
    label: str,
    guest_samples: Sequence[tuple[float, Sequence[int]]] = (),
    work_lost_percent: float | None = None,
) -> RunSeries:
    """Return the course of one migration, whose first entry is `started`.

    `guest_samples` are times in seconds and the pages that each vCPU has written up to then, if somebody measured, and
    `work_lost_percent` is what of its work was then seen to be lost. Raises UsageError for numbers that cannot be.
    """
    journal = _Journal(entries, clean_text(label))
    started, ended = journal.started, journal.ended
    total_s = max((ended.total_time_ns or 0) / NS_PER_S, journal.last_s)
    outcome = Outcome.of(entries)
    iterations = [(time, event.iteration_count) for time, event in journal.all(Synced) if event.kind == "iteration"]
    return RunSeries(
        label=journal.label,
        started=started,
        outcome=outcome if work_lost_percent is None else outcome.counted(work_lost_percent),
        total_s=total_s,
        remaining_bytes=Series.of([*journal.remaining(), *([(total_s, 0)] if outcome.completed else [])]),
        throttle_percent=_until(total_s, [(0, 0), *journal.throttle()]),
        mean_throttle_percent=_until(total_s, [(0, 0), *journal.mean_throttle()]),
        bandwidth_bytes_per_s=Series.of(
            (time, event.sent_bytes * NS_PER_S / event.duration_ns)
            for time, event in journal.all(BandwidthWindow)
            if event.duration_ns
        ),
        guest_dirties_bytes_per_s=_periods(journal.guest_dirties()),
        newly_dirty_bytes_per_s=_periods(journal.newly_dirty()),
        iterations=_until(total_s, iterations),
        background_syncs=Series.of(journal.background_syncs()),
        decisions=tuple(journal.decisions()) if started.decisions_known else None,
        deeds=tuple(journal.deeds()),
        switchover_s=journal.switchover_s,
        downtime_s=journal.downtime(),
        shadows=tuple(
            ShadowDecision(time, clean_text(event.variant), clean_text(event.reason))
            for time, event in journal.all(Shadowed)
        ),
        gaps=any(journal.all(Lost)),
        written_pages_per_s=_speed(guest_samples),
        lost_is_measured=bool(guest_samples),
        vm_name=journal.vm_name,
        limits=journal.limits,
    )


class _Journal:
    """The entries of one migration, checked, with times in seconds since its start."""

    def __init__(self, entries: Sequence[Entry], label: str) -> None:
        assert isinstance(entries[0].event, Started)
        self.label = label
        self.started = entries[0].event
        self._timed: list[tuple[float, Event]] = []
        start_ns = last_ns = entries[0].time_ns
        for entry in entries:
            self._check(entry)
            last_ns = max(last_ns, entry.time_ns)
            self._timed.append(((last_ns - start_ns) / NS_PER_S, entry.event))
        self.last_s = self._timed[-1][0]
        self.ended = end_of(entries)

    def all(self, kind: type[_E]) -> Iterator[tuple[float, _E]]:
        """Yield the events of one kind with their times."""
        return ((time, event) for time, event in self._timed if isinstance(event, kind))

    def remaining(self) -> Iterator[tuple[float, int]]:
        """Yield what is known to be still to be sent, in bytes."""
        for time, event in self._timed:
            if isinstance(event, BandwidthWindow):
                yield time, event.remaining_bytes
            elif isinstance(event, Synced):
                yield time, event.remaining_pages * self.started.page_size

    def throttle(self) -> Iterator[tuple[float, int]]:
        """Yield each throttle with the time since which it was in force."""
        for time, event in self._timed:
            if isinstance(event, Decided | ThrottleSeen):
                yield time, event.throttle_percent

    def mean_throttle(self) -> Iterator[tuple[float, float]]:
        """Yield the same of a vCPU in the mean of all."""
        for time, event in self._timed:
            if isinstance(event, Decided):
                yield time, event.mean_throttle_percent
            elif isinstance(event, ThrottleSeen):
                yield time, event.throttle_percent

    def background_syncs(self) -> Iterator[tuple[float, int]]:
        """Yield time and iteration of what was looked at within iterations: background syncs, measurements."""
        iteration_count = 0
        for time, event in self._timed:
            if isinstance(event, Synced):
                iteration_count = event.iteration_count
            if isinstance(event, Measured) or (isinstance(event, Synced) and event.kind == "background"):
                yield time, iteration_count

    def decisions(self) -> Iterator[Decision]:
        """Yield each decision with the sync or measurement that it followed."""
        kind, iteration_count = "", 0
        for time, event in self._timed:
            if isinstance(event, Synced):
                kind, iteration_count = event.kind, event.iteration_count
            elif isinstance(event, Measured):
                kind = "background"
            elif isinstance(event, Decided):
                yield Decision(
                    time_s=time,
                    iteration_count=iteration_count,
                    background_sync=kind == "background",
                    old_throttle_percent=event.old_throttle_percent,
                    throttle_percent=event.throttle_percent,
                    reason=clean_text(event.reason),
                )

    @property
    def switchover_s(self) -> float | None:
        """Return when the guest was about to be stopped, the last time.

        Where nobody saw that, but how long it stood still before it had gone, that long before the end.
        """
        seen = max((time for time, _ in self.all(SwitchoverBegan)), default=None)
        if seen is None and self.ended.status is MigrationStatus.COMPLETED and self.ended.downtime_ns is not None:
            return max(0.0, self.last_s - self.ended.downtime_ns / NS_PER_S)
        return seen

    def deeds(self) -> Iterator[Deed]:
        """Yield what else was done and what happened."""
        return deeds(self._timed)

    @property
    def vm_name(self) -> str | None:
        """What the VM is called."""
        names = [clean_text(event.vm_name) for _, event in self.all(Ordered) if event.vm_name]
        return names[-1] if names else None

    @property
    def limits(self) -> Limits | None:
        """What the operator allowed."""
        orders = [event for _, event in self.all(Ordered)]
        return orders[-1].limits() if orders else None

    def guest_dirties(self) -> Iterator[tuple[float, float, float]]:
        """Yield periods in which it is known what the guest wrote, each page once, and that per second."""
        last_s = 0.0
        for time, event in self._timed:
            start_s, pages = time, None
            if isinstance(event, Synced):
                start_s, pages = last_s, event.dirty_pages
                last_s = time
            elif isinstance(event, Measured):
                start_s, pages = max(0, time - event.window_ns / NS_PER_S), event.dirty_pages
            if pages is not None and time > start_s:
                yield start_s, time, pages * self.started.page_size / (time - start_s)

    def newly_dirty(self) -> Iterator[tuple[float, float, float]]:
        """Yield periods between syncs, and what was newly dirty at their ends per second."""
        last_s = 0.0
        for time, event in self.all(Synced):
            if event.newly_dirty_pages is not None and time > last_s:
                yield last_s, time, event.newly_dirty_pages * self.started.page_size / (time - last_s)
            last_s = time

    def downtime(self) -> tuple[float, float] | None:
        """Return from when until when the guest stood still."""
        start_s = self.switchover_s
        if start_s is None or self.ended.downtime_ns is None:
            return None
        return start_s, start_s + self.ended.downtime_ns / NS_PER_S

    def _check(self, entry: Entry) -> None:
        event = entry.event
        numbers: list[tuple[str, object]] = [("time-ns", entry.time_ns), *msgspec.structs.asdict(event).items()]
        if isinstance(event, Ended):
            numbers += event.downtime_parts_ns.items()
        if isinstance(event, Started):
            numbers += event.parameters.items()
        if isinstance(event, Decided):
            numbers += [("vcpu_throttle_percent", percent) for percent in event.vcpu_throttle_percents or ()]
        for name, number in numbers:
            maximum = 100 if name.endswith("throttle_percent") else _MAX_NUMBER
            if isinstance(number, int) and not 0 <= number <= maximum:
                where = f"{self.label}: no journal of a migration"
                raise UsageError(f"{where}: '{clean_text(name)}' is {number}, 0 to {maximum} is possible")


def _speed(samples: Sequence[tuple[float, Sequence[int]]]) -> Series:
    steps = [(a, b) for a, b in pairwise(samples) if b[0] > a[0]]
    return _periods((a[0], b[0], (sum(b[1]) - sum(a[1])) / (b[0] - a[0])) for a, b in steps)


def _periods(periods: Iterable[tuple[float, float, float]]) -> Series:
    """Make a series of starts, ends and values: a point where the first begins, and where each ends."""
    points: list[tuple[float, float]] = []
    for start_s, end_s, value in periods:
        if not points:
            points.append((start_s, value))
        points.append((end_s, value))
    return Series.of(points)


def _until(end_s: float, steps: Sequence[tuple[float, float]]) -> Series:
    """Let the last step go on to the end."""
    return Series.of([*steps, (end_s, steps[-1][1])] if steps else [])
