"""Makes a scenario of a recorded migration: its guest, its link and its parameters, to be changed and simulated.

What the journal does not tell is taken as it costs least: a link that was never used to the full is as fast as it was
seen at its fastest, and its latency is half of the time in which the hand-over was confirmed. In a first pass over
memory that is zero in the main, the link waits for the scan; it is as fast as where the pages were sent.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import msgspec

from vmferry.convergence.policy import VARIANTS
from vmferry.errors import UsageError
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.migration.events import BandwidthWindow, Ended, Started, Synced
from vmferry.migration.journal import Entry
from vmferry.simulation.scenario import MAX_BYTES_PER_S, GuestScenario, Limits, LinkScenario, LoadScenario, Scenario
from vmferry.simulation.trace import DirtyTrace, read_trace
from vmferry.units import parse_duration_ns

_NS_PER_S = 1_000_000_000
_MIN_WINDOWS = 3
_MIN_HAND_OVER_BYTES = 1 << 16
_MIN_LINK_BYTES = 1 << 20
"""Fewer bytes than this tell nothing of a link."""
_WAITING = 0.5
"""A window is one of waiting if it is slower than this share of the window that sent the median byte."""
_AT_LIMIT = 0.8
_MAX_JITTER = 0.9
_THROTTLE_SLICE = "10ms"
"""QEMU's and ours."""
_TIMES_RECORDED = 3
_MAX_TIME_NS = 24 * 3600 * _NS_PER_S
_MIN_LIMITS = Limits()
_MIN_TIME_NS = parse_duration_ns(_MIN_LIMITS.max_time)


@dataclass(frozen=True)
class Replay:
    """A recorded migration, ready to be simulated."""

    scenario: Scenario
    trace: DirtyTrace
    """How its guest writes."""
    link_rate_is_lower_bound: bool
    """True if the link was never used to the full: `max-bandwidth` was in force or next to nothing was sent."""


def read_replay(
    entries: Sequence[Entry], where: str, parameters: Mapping[str, object], link: Mapping[str, object]
) -> Replay:
    """Return the replay of one migration, whose first entry is `started`.

    `parameters` and `link` replace what is recorded, by QMP names and by the names of `LinkScenario`. Raises UsageError
    that begins with `where`.
    """
    started = entries[0].event
    assert isinstance(started, Started)
    trace = read_trace(entries, where)
    recorded = _Recorded(entries)
    lower_bound = False
    if "rate" not in link:
        rate, lower_bound = recorded.link_rate()
        link = {"rate": str(max(1, min(round(rate), MAX_BYTES_PER_S)))} | dict(link)
    try:
        scenario = Scenario(
            name=where,
            guest=GuestScenario(
                memory=str(started.page_count * PAGE_SIZE_BYTES),
                vcpus=started.vcpu_count,
                loads=(LoadScenario(pattern="trace", trace=trace),),
                zero_scan_rate=recorded.zero_scan_rate(started.page_count - trace.used_pages),
                sync_ns_per_page=recorded.sync_ns() / started.page_count,
                throttle_slice=_THROTTLE_SLICE,
            ),
            link=msgspec.convert(recorded.link() | dict(link), LinkScenario),
            parameters=msgspec.convert(_settings_but_variant(started) | dict(parameters), dict[str, int | bool | str]),
            limits=recorded.limits(),
        )
        scenario.check()
    except (UsageError, msgspec.ValidationError) as error:
        raise UsageError(f"{where}: {error}") from error
    return Replay(scenario, trace, lower_bound)


def _settings_but_variant(started: Started) -> dict[str, object]:
    """Return the recorded parameters but for those that a variant sets."""
    return {name: value for name, value in started.parameters.items() if name not in VARIANTS["original"].settings}


class _Recorded:
    """What the entries of a migration tell of its link and its costs."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        started = entries[0].event
        assert isinstance(started, Started)
        limit = started.parameters.get("max-bandwidth")
        self._max_bandwidth = limit if isinstance(limit, int) else 0
        self._total_ns = entries[-1].time_ns - entries[0].time_ns
        self._syncs = [entry.event for entry in entries if isinstance(entry.event, Synced)]
        self._ended = next((entry.event for entry in entries if isinstance(entry.event, Ended)), None)
        self._first_pass, later = _split_windows(entries)
        self._busy = later if len(later) >= _MIN_WINDOWS else _without_waiting([*self._first_pass, *later])
        """Windows in which nothing but sending took time, if there are such."""

    def link(self) -> dict[str, Any]:
        """Return latency and jitter."""
        parts_ns = self._ended.downtime_parts_ns if self._ended else {}
        return {
            "latency": f"{max(0, parts_ns.get('hand-over', 0)) // 2}ns",
            "jitter": 0.0 if self._limited() else min(_MAX_JITTER, _scatter(self._busy)),
            "jitter-interval": "100ms",
        }

    def link_rate(self) -> tuple[float, bool]:
        """Return bytes per second, and whether the link may be faster."""
        if not self._limited():
            return _rate(self._busy), _sums(self._busy)[0] < _MIN_LINK_BYTES
        hand_over = self._hand_over_rate()
        return max(hand_over, _rate(self._busy)), not hand_over

    def zero_scan_rate(self, zero_pages: int) -> str:
        """Return how many zero bytes per second the first pass looked at, beside sending; "0" for at once."""
        sent_bytes, duration_ns = _sums(self._first_pass)
        rate = _rate(self._busy)
        scan_ns = duration_ns - sent_bytes * _NS_PER_S / rate if rate else 0
        if scan_ns <= 0:
            return "0"
        return str(max(1, min(int(zero_pages * PAGE_SIZE_BYTES * _NS_PER_S / scan_ns), MAX_BYTES_PER_S)))

    def sync_ns(self) -> float:
        """Return what a sync takes."""
        return max(0, statistics.median(sync.duration_ns for sync in self._syncs))

    def limits(self) -> Limits:
        """Return when to give up: far beyond what was recorded."""
        iterations = max(sync.iteration_count for sync in self._syncs)
        time_ns = min(max(self._total_ns * _TIMES_RECORDED, _MIN_TIME_NS), _MAX_TIME_NS)
        return Limits(
            max_iterations=max(_TIMES_RECORDED * iterations, _MIN_LIMITS.max_iterations), max_time=f"{time_ns}ns"
        )

    def _limited(self) -> bool:
        return 0 < self._max_bandwidth * _AT_LIMIT < _rate(self._busy)

    def _hand_over_rate(self) -> float:
        """Return how fast the last pages went, which no limit holds back; 0 if they were too few to tell."""
        last_bytes = self._syncs[-1].remaining_pages * PAGE_SIZE_BYTES if self._syncs[-1].kind == "last" else 0
        ram_ns = self._ended.downtime_parts_ns.get("ram", 0) if self._ended else 0
        return last_bytes * _NS_PER_S / ram_ns if ram_ns > 0 and last_bytes >= _MIN_HAND_OVER_BYTES else 0.0


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
    return sent_bytes * _NS_PER_S / duration_ns if duration_ns else 0.0


def _scatter(windows: Sequence[BandwidthWindow]) -> float:
    """Return the standard deviation of the windows' rates as a share of their mean."""
    rates = [_speed(window) for window in windows]
    return statistics.pstdev(rates) / statistics.fmean(rates) if any(rates) else 0.0
