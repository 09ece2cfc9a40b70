"""What the journal of a migration tells of its link, its costs and its parameters.

What the journal does not tell is taken as it costs least: a link that was never used to the full is as fast as it was
seen at its fastest, and its latency is half of the time in which the hand-over was confirmed. In a first pass over
memory that is zero in the main, the link waits for the scan; it is as fast as where the pages were sent.
"""

import statistics
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from vmferry.convergence.variants import VARIANT_PARAMETERS
from vmferry.experiment.parts import MAX_BATCH_BYTES, LinkSpec, RunLimits
from vmferry.experiment.quantities import MAX_BYTES_PER_S
from vmferry.migration.events import BandwidthWindow, Decided, Ended, Measured, RecordedBy, Started, Synced
from vmferry.migration.journal import Entry
from vmferry.settings.choices import Rearm
from vmferry.units import NS_PER_MS, NS_PER_S, PAGE_SIZE_BYTES

_MIN_WINDOWS = 3
_MIN_HAND_OVER_BYTES = 1 << 16
_MIN_LINK_BYTES = 1 << 20
"""Fewer bytes than this tell nothing of a link."""
_WAITING = 0.5
"""A window is one of waiting if it is slower than this share of the window that sent the median byte."""
_AT_LIMIT = 0.8
_COMPRESSION = "multifd-compression"
_MAX_JITTER = 0.9
_WINDOW_S = 0.1
_MAX_BATCH_S = 0.05
_TIMES_RECORDED = 3
MAX_TIME_NS = 24 * 3600 * NS_PER_S
_MIN_LIMITS = RunLimits()
_MIN_TIME_NS = _MIN_LIMITS.max_time_ns


class Recorded:
    """What the entries of a migration tell of its link and its costs."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        started = entries[0].event
        assert isinstance(started, Started)
        self._started = started
        self._cycles_ns = list(_measuring_cycles_ns(entries))
        limit = started.parameters.get("max-bandwidth")
        self._max_bandwidth = limit if isinstance(limit, int) else 0
        self._total_ns = entries[-1].time_ns - entries[0].time_ns
        self._syncs = [entry.event for entry in entries if isinstance(entry.event, Synced)]
        self._ended = next((entry.event for entry in entries if isinstance(entry.event, Ended)), None)
        self._first_pass, later = _split_windows(entries)
        self._busy = later if len(later) >= _MIN_WINDOWS else _without_waiting([*self._first_pass, *later])
        """The windows in which nothing but sending took time, if there are any."""
        self.times_smaller = _times_smaller([*self._first_pass, *later])
        """How many times smaller pages were on the wire than in memory; 1 if they went as they are."""

    def settings(self) -> dict[str, object]:
        """Return the parameters but for those that a variant sets, and compression, as modelled links do not compress.

        Who decides from outside measures for a while, and polls, where the engine makes a background sync at once.
        """
        left_out = VARIANT_PARAMETERS | {_COMPRESSION}
        recorded = {name: value for name, value in self._started.parameters.items() if name not in left_out}
        if self._started.recorded_by is not RecordedBy.VM:  # QEMU arms a GiB before it sends the first page of it
            recorded["x-dirty-log-rearm"] = Rearm.EARLY.value
        recorded.setdefault("x-dirty-log-rearm", Rearm.EARLY.value)  # as in old journals
        look_ms = recorded.get("x-watch-interval")
        if self._cycles_ns and isinstance(look_ms, int):
            cycle_ms = int(statistics.median(self._cycles_ns)) // NS_PER_MS
            recorded["x-background-sync-interval"] = max(1, cycle_ms - look_ms)
        return recorded

    def link(self) -> dict[str, Any]:
        """Return latency, jitter and batch by the names of a LinkSpec."""
        parts_ns = self._ended.downtime_parts_ns if self._ended else {}
        return {
            "latency_ns": max(0, parts_ns.get("hand-over", 0)) // 2,
            "jitter": 0.0 if self._limited() else min(_MAX_JITTER, _scatter(self._busy)),
            "jitter_interval_ns": NS_PER_S // 10,
            "batch_bytes": self._batch_bytes(),
        }

    def _batch_bytes(self) -> int:
        """Return how much is sent at once.

        QEMU looks whether the rest fits the downtime when it has sent what `max-bandwidth` allows in 100 ms, or after
        50 ms (`migration.c`: `migration_iteration_run`, `ram.c`: `ram_save_iterate`).
        """
        if self._started.recorded_by is RecordedBy.VM:
            return LinkSpec(rate_bytes_per_s=0).batch_bytes
        batch_bytes = int(self._max_bandwidth * _WINDOW_S if self._limited() else _rate(self._busy) * _MAX_BATCH_S)
        return min(max(batch_bytes, PAGE_SIZE_BYTES), MAX_BATCH_BYTES)

    def link_rate(self) -> tuple[float, bool]:
        """Return bytes per second, and whether the link may be faster."""
        if not self._limited():
            return _rate(self._busy), _sums(self._busy)[0] < _MIN_LINK_BYTES
        hand_over = self._hand_over_rate()
        return max(hand_over, _rate(self._busy)), not hand_over

    def zero_scan_rate(self, zero_pages: int) -> int:
        """Return how many zero bytes per second the first pass looked at, beside sending; 0 for at once."""
        sent_bytes, duration_ns = _sums(self._first_pass)
        rate = _rate(self._busy)
        scan_ns = duration_ns - sent_bytes * NS_PER_S / rate if rate else 0
        if scan_ns <= 0:
            return 0
        return max(1, min(int(zero_pages * PAGE_SIZE_BYTES * NS_PER_S / scan_ns), MAX_BYTES_PER_S))

    def sync_ns(self) -> float:
        """Return what a sync takes."""
        durations_ns = [sync.duration_ns for sync in self._syncs if sync.duration_ns is not None]
        return max(0, statistics.median(durations_ns)) if durations_ns else 0.0

    def limits(self) -> RunLimits:
        """Return when to give up: far beyond what was recorded."""
        iterations = max(sync.iteration_count for sync in self._syncs)
        time_ns = min(max(self._total_ns * _TIMES_RECORDED, _MIN_TIME_NS), MAX_TIME_NS)
        return RunLimits(
            max_iterations=max(_TIMES_RECORDED * iterations, _MIN_LIMITS.max_iterations), max_time_ns=time_ns
        )

    def _limited(self) -> bool:
        return 0 < self._max_bandwidth * _AT_LIMIT < _rate(self._busy)

    def _hand_over_rate(self) -> float:
        """Return how fast the last pages went, which no limit holds back; 0 if they were too few to tell."""
        last_bytes = self._syncs[-1].remaining_pages * PAGE_SIZE_BYTES if self._syncs[-1].kind == "last" else 0
        ram_ns = self._ended.downtime_parts_ns.get("ram", 0) if self._ended else 0
        wire_bytes = last_bytes / self.times_smaller
        return wire_bytes * NS_PER_S / ram_ns if ram_ns > 0 and last_bytes >= _MIN_HAND_OVER_BYTES else 0.0


def _measuring_cycles_ns(entries: Sequence[Entry]) -> Iterator[int]:
    """Yield the time from each evaluation to the next one that rests on a measurement."""
    evaluated_ns: int | None = None
    measured = False
    for entry in entries:
        if isinstance(entry.event, Measured):
            measured = True
        elif isinstance(entry.event, Decided):
            if measured and evaluated_ns is not None:
                yield entry.time_ns - evaluated_ns
            evaluated_ns, measured = entry.time_ns, False


def _split_windows(entries: Sequence[Entry]) -> tuple[list[BandwidthWindow], list[BandwidthWindow]]:
    """Return the windows of the first pass over the memory and those after it."""
    first_pass: list[BandwidthWindow] = []
    later: list[BandwidthWindow] = []
    windows = first_pass
    for entry in entries:
        if isinstance(entry.event, Synced) and entry.event.iteration_count > 1:
            windows = later
        elif isinstance(entry.event, BandwidthWindow) and entry.event.duration_ns > 0 <= entry.event.sent_bytes:
            windows.append(entry.event)
    return first_pass, later


def _without_waiting(windows: Sequence[BandwidthWindow]) -> list[BandwidthWindow]:
    """Return the windows in which the link was used rather than memory scanned."""
    by_speed = sorted(windows, key=_speed)
    passed_bytes = accumulate(window.sent_bytes for window in by_speed)
    half = _sums(windows)[0] / 2
    median = next(
        (_speed(window) for window, passed in zip(by_speed, passed_bytes, strict=True) if passed >= half), 0.0
    )
    return [window for window in windows if _speed(window) >= _WAITING * median]


def _speed(window: BandwidthWindow) -> float:
    return window.sent_bytes / window.duration_ns


def _sums(windows: Sequence[BandwidthWindow]) -> tuple[int, int]:
    return sum(window.sent_bytes for window in windows), sum(window.duration_ns for window in windows)


def _rate(windows: Sequence[BandwidthWindow]) -> float:
    sent_bytes, duration_ns = _sums(windows)
    return sent_bytes * NS_PER_S / duration_ns if duration_ns else 0.0


def _times_smaller(windows: Sequence[BandwidthWindow]) -> float:
    sent_bytes, saved_bytes = _sums(windows)[0], sum(window.saved_bytes for window in windows)
    return 1 + saved_bytes / sent_bytes if sent_bytes > 0 < saved_bytes else 1.0


def _scatter(windows: Sequence[BandwidthWindow]) -> float:
    """Return the standard deviation of the windows' rates as a share of their mean."""
    rates = [_speed(window) for window in windows]
    return statistics.pstdev(rates) / statistics.fmean(rates) if any(rates) else 0.0
