"""A log of what strangers can cause at any rate: it must not fill a disk, or hide what else is told there."""

from collections.abc import Callable

from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_S

_INTERVAL_NS = 10 * NS_PER_S
_LINES = 10


class SparingLog:
    """Passes on 10 lines in 10 s at most; the next line says how many were left out."""

    def __init__(self, clock: Clock, log: Callable[[str], None]) -> None:
        self._clock = clock
        self._log = log
        self._interval_end_ns = clock.now_ns() + _INTERVAL_NS
        self._told = self._left_out = 0

    def __call__(self, text: str) -> None:
        """Tell this line, or count it."""
        now_ns = self._clock.now_ns()
        if now_ns >= self._interval_end_ns:
            self._interval_end_ns, self._told = now_ns + _INTERVAL_NS, 0
        if self._told == _LINES:
            self._left_out += 1
            return
        self._told += 1
        more = f" (and {self._left_out} more before)" if self._left_out else ""
        self._left_out = 0
        self._log(text + more)
