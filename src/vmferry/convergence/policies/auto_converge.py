"""QEMU's auto-converge, and the patch series' responsive throttle.

Two criteria tell that a migration does not converge. *Dirty rate high* is QEMU's (`migration_trigger_throttle`): the
guest dirtied more than a threshold's share of what was sent. *Dirty ratio high* is the series': the ratio of the two is
above the threshold and does not fall. What follows is one step on a ladder (`mig_throttle_guest_down`).
"""

from collections.abc import Iterable
from typing import Annotated, ClassVar

import msgspec

from vmferry.convergence.actions import Action, Throttle
from vmferry.convergence.sensing import Body, Period, View
from vmferry.units import format_size

HIGH_COUNT_TO_ACT = 2
HARDLY_SMALLER_PERCENT = 80

Share = Annotated[int, msgspec.Meta(ge=1, le=100)]
Percent = Annotated[int, msgspec.Meta(ge=1, le=99)]


class AutoConvergeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """All of them are migration parameters, which may change while a migration runs."""

    throttle_trigger_threshold: Share = 50
    cpu_throttle_initial: Percent = 20
    cpu_throttle_increment: Percent = 10
    max_cpu_throttle: Percent = 99
    cpu_throttle_tailslow: bool = False
    cpu_responsive_throttle: bool = False
    """Use the dirty-ratio criterion too."""


class AutoConverge:
    """Steps up when the dirty rate was high twice, or once while the dirty ratio is high."""

    Settings: ClassVar[type] = AutoConvergeSettings
    needs: ClassVar[Body] = Body.THROTTLE

    def __init__(self) -> None:
        self._rate = DirtyRateCriterion()
        self._ratio = DirtyRatioCriterion()

    def look(self, view: View, settings: AutoConvergeSettings) -> Iterable[Action]:
        """Decide on every period that has ended; between them there is nothing to do."""
        return [self._decide(view.period, settings, view.sensed.rearms_late)] if view.period else ()

    def _decide(self, period: Period, settings: AutoConvergeSettings, rearms_late: bool) -> Throttle:
        threshold = settings.throttle_trigger_threshold
        ratio_high = settings.cpu_responsive_throttle and self._ratio.observe(period, threshold, rearms_late)
        rate_high = self._rate.observe(period, threshold)
        rate_twice = self._rate.take_action()
        act = rate_twice or (rate_high and ratio_high)
        percent = next_throttle_percent(period, settings) if act else period.throttle_percent
        cause = self._cause(rate_high, rate_twice, ratio_high)
        return Throttle(
            percent=percent,
            reason=f"{_comparison(period, threshold, rate_high)}{cause}: {_change(period, percent)}",
            figures={
                "dirty-ratio-high": int(ratio_high),
                "dirty-ratio-percent": self._ratio.ratio_percent,
                "previous-dirty-ratio-percent": self._ratio.previous_ratio_percent,
            },
        )

    def _cause(self, rate_high: bool, rate_twice: bool, ratio_high: bool) -> str:
        if not rate_high:
            return ""
        if rate_twice:
            return ", second time"
        if ratio_high:
            ratio = self._ratio
            return f", ratio {ratio.ratio_percent} % after {ratio.previous_ratio_percent} %, second time"
        return ", first time"


class DirtyRateCriterion:
    """Counts periods in which the guest dirtied too much, two of which call for action.

    A period that is not high does not reset the count; QEMU does not either.
    """

    def __init__(self) -> None:
        self.high_count = 0

    def observe(self, period: Period, threshold_percent: int) -> bool:
        """Return whether this period was high, and count it if so."""
        high = period.dirty_bytes * 100 > period.sent_bytes * threshold_percent
        self.high_count += high
        return high

    def take_action(self) -> bool:
        """Return whether it is time to act; if it is, start counting afresh."""
        if self.high_count < HIGH_COUNT_TO_ACT:
            return False
        self.high_count = 0
        return True


class DirtyRatioCriterion:
    """Counts periods whose dirty ratio is above the threshold and has not fallen since the last one.

    Where pages are armed late, what is dirty is what was written after it was sent, so the ratio tells how large the
    next pass is beside this one. That of a guest that writes the same pages round and round wavers, by where in its
    round it is when a pass ends. There, a pass that is hardly smaller than the one before counts as well.
    """

    def __init__(self) -> None:
        self.ratio_percent = 0
        self.previous_ratio_percent = 0
        self.high_count = 0

    def observe(self, period: Period, threshold_percent: int, rearms_late: bool = False) -> bool:
        """Return whether the ratio was high for the second time; a period with nothing sent is skipped."""
        if period.sent_bytes == 0:
            return False
        self.previous_ratio_percent = self.ratio_percent
        self.ratio_percent = 100 * period.dirty_bytes // period.sent_bytes
        if self.previous_ratio_percent == 0:
            return False
        floor_percent = self.previous_ratio_percent
        if rearms_late:
            floor_percent = min(floor_percent, HARDLY_SMALLER_PERCENT)
        if threshold_percent < self.ratio_percent >= floor_percent:
            self.high_count += 1
        if self.high_count < HIGH_COUNT_TO_ACT:
            return False
        self.high_count = 0
        return True


def next_throttle_percent(period: Period, settings: AutoConvergeSettings) -> int:
    """Return the throttle after one step up from that of the period, at most the maximum."""
    if period.throttle_percent == 0:
        return min(settings.cpu_throttle_initial, settings.max_cpu_throttle)
    increment = settings.cpu_throttle_increment
    if settings.cpu_throttle_tailslow:
        increment = min(increment, _tailslow_increment(period, settings))
    return min(period.throttle_percent + increment, settings.max_cpu_throttle)


def _tailslow_increment(period: Period, settings: AutoConvergeSettings) -> int:
    """Return the step that brings dirtying down to the threshold if it is in proportion to CPU time."""
    cpu_now = 100 - period.throttle_percent
    allowed_bytes = period.sent_bytes * settings.throttle_trigger_threshold // 100
    cpu_ideal = cpu_now * allowed_bytes // period.dirty_bytes
    return cpu_now - cpu_ideal


def _comparison(period: Period, threshold_percent: int, high: bool) -> str:
    relation = ">" if high else "<="
    sent = format_size(period.sent_bytes)
    return f"dirty {format_size(period.dirty_bytes)} {relation} {threshold_percent} % of {sent} sent"


def _change(period: Period, throttle_percent: int) -> str:
    if throttle_percent == period.throttle_percent:
        return f"throttle stays {throttle_percent} %"
    return f"{period.throttle_percent} -> {throttle_percent} %"
