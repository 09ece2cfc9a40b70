"""Looks for some seconds how a VM's guest writes: in windows of several lengths, and then in short ones.

Those of several lengths are points of its dirty curve. A guest in bursts shows itself in the short ones, and is looked
at more often as soon as it does. Between them its writes are not logged, so they cost it next to nothing.

A guest that the host gave no processor writes little, too, but has no calm: such looks do not tell what it does by
turns.
"""

from dataclasses import dataclass

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.survey import (
    WHOLE_SECONDS_MS,
    WINDOWS_MS,
    Busyness,
    measure_rate,
    measures_milliseconds,
    rest,
    written_at,
)
from vmferry.migration.ports import Clock
from vmferry.study.bursts import Look, bursts_of
from vmferry.units import NS_PER_MS


@dataclass(frozen=True)
class _Habit:
    """How long a guest is looked at, and how often; in ms."""

    windows: tuple[int, ...]
    short: int
    rest: int
    """Between two short ones."""
    rest_in_bursts: int
    watch: int
    """For how long at short ones."""


_HABIT = _Habit(WINDOWS_MS, 50, 450, 50, 5000)
_IN_SECONDS = _Habit(WHOLE_SECONDS_MS, 1000, 1000, 0, 4000)
_STARVED = 0.3
"""The share of a look in which vCPUs may have waited for a processor; more of it may look like a calm."""


@dataclass(frozen=True)
class Watched:
    """What was seen of a guest while it was watched."""

    windows: tuple[Look, ...]
    """Those of several lengths."""
    looks: tuple[Look, ...]
    """All in order but those in which it had too little of a processor; none if looks tell too little of a short time,
    as samples of pages do."""
    sampled: bool
    """True if pages were only sampled."""


def watch_guest(monitor: Monitor, driven: DrivenVm, clock: Clock, cancel: CancelToken, busyness: Busyness) -> Watched:
    """Look for as long as it takes to see most of what a guest does. Raises what `measure_rate` does."""
    habit = _HABIT if measures_milliseconds(driven) else _IN_SECONDS
    start_ns = clock.now_ns()
    sampled = False
    looks: list[Look] = []

    def look(window_ms: int) -> Look:
        nonlocal sampled
        begin_ns, before_ns = clock.now_ns() - start_ns, busyness.waited_ns()
        rate = measure_rate(monitor, driven, clock, cancel, window_ms)
        sampled = sampled or rate.mode == "page-sampling"
        found = Look(begin_ns, written_at(rate))
        after_ns = busyness.waited_ns()
        if before_ns is None or after_ns is None or after_ns - before_ns <= _STARVED * rate.window_ns:
            looks.append(found)
        return found

    windows = tuple(map(look, habit.windows))
    if sampled:
        return Watched(windows, (), sampled)
    end_ns = clock.now_ns() + habit.watch * NS_PER_MS
    while True:
        rest(clock, cancel, NS_PER_MS * (habit.rest_in_bursts if bursts_of(looks) else habit.rest))
        if clock.now_ns() + habit.short * NS_PER_MS > end_ns:
            return Watched(windows, tuple(looks), sampled)
        look(habit.short)
