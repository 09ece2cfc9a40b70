"""QEMU's own auto-converge (`migration/ram.c`: `migration_trigger_throttle`, `mig_throttle_guest_down`)."""

from collections.abc import Callable, Mapping
from typing import Any

_HIGH_PERIODS = 2


class ModelledAutoConverge:
    """Decides at the end of every period; `throttle` slows the guest."""

    def __init__(self, throttle: Callable[[int], None]) -> None:
        self.percent = 0
        """The throttle in force; 0 is none."""
        self._throttle = throttle
        self._high_count = 0

    def judge(self, dirty_bytes: int, sent_bytes: float, parameters: Mapping[str, Any]) -> None:
        """Step up if the second period dirtied too much; periods in between that did not are not heeded."""
        allowed_bytes = sent_bytes * parameters["throttle-trigger-threshold"] / 100
        if dirty_bytes > allowed_bytes:
            self._high_count += 1
            if self._high_count >= _HIGH_PERIODS:
                self._high_count = 0
                self._set(self._next_percent(dirty_bytes, allowed_bytes, parameters))

    def stop(self) -> None:
        """Slow the guest no more."""
        self._set(0)

    def _next_percent(self, dirty_bytes: int, allowed_bytes: float, parameters: Mapping[str, Any]) -> int:
        if not self.percent:
            return int(parameters["cpu-throttle-initial"])
        increment = int(parameters["cpu-throttle-increment"])
        if parameters["cpu-throttle-tailslow"]:
            now = 100 - self.percent
            increment = min(increment, now - int(now * allowed_bytes / dirty_bytes))
        return min(self.percent + increment, int(parameters["max-cpu-throttle"]))

    def _set(self, percent: int) -> None:
        if percent != self.percent:
            self.percent = percent
            self._throttle(percent)
