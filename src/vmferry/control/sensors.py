"""Learns from outside how fast a guest of QEMU dirties its memory: `calc-dirty-rate` as the background sync.

Three modes, tried in this order: the dirty ring's counters where the guest has one, the dirty bitmap, which counts
every page once in each measurement, and sampling, which is always possible but blind to writes of the same value and
reads too low for small hot areas. A measurement may be another client's; its result is as good as ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmferry.control.qmp_client import QmpClient
from vmferry.errors import CommandError

MIB = 1 << 20
MODES = ("dirty-ring", "dirty-bitmap", "page-sampling")
_BUSY = "already being measured"


@dataclass(frozen=True)
class DirtyRate:
    """One measurement."""

    bytes_per_s: int
    duration_ms: int


class DirtyRateSensor:
    """Measures again and again, each time for `duration_ms`.

    A QEMU older than 8.2 measures whole seconds only. Raises CommandError if the monitor knows no such command.
    """

    def __init__(self, monitor: QmpClient, duration_ms: int) -> None:
        self._monitor = monitor
        self._modes = list(MODES)
        self._milliseconds = True
        self._duration_ms = duration_ms
        self._measuring = False

    @property
    def mode(self) -> str:
        """The mode in use, or to be tried next."""
        return self._modes[0]

    def poll(self) -> DirtyRate | None:
        """Return a measurement that has just ended, if any, and see to it that another one runs."""
        answer = self._monitor.execute("query-dirty-rate")
        if answer.get("status") == "measuring":
            return None
        rate = self._rate(answer) if self._measuring else None
        self._measuring = self._start()
        return rate

    def _rate(self, answer: Mapping[str, Any]) -> DirtyRate | None:
        if "dirty-rate" not in answer:
            return None
        return DirtyRate(answer["dirty-rate"] * MIB, self._duration_ms)

    def _start(self) -> bool:
        """Begin a measurement in the best mode that the guest allows."""
        while True:
            try:
                self._monitor.execute("calc-dirty-rate", self._arguments())
            except CommandError as error:
                if _BUSY in str(error):
                    return True
                self._give_way(error)
            else:
                return True

    def _arguments(self) -> dict[str, object]:
        if self._milliseconds:
            time: dict[str, object] = {"calc-time": self._duration_ms, "calc-time-unit": "millisecond"}
        else:
            time = {"calc-time": self._duration_ms // 1000}
        return time | {"mode": self.mode}

    def _give_way(self, error: CommandError) -> None:
        """Do without what the monitor has refused. Raises the error if nothing is left to try."""
        if self._milliseconds and "calc-time-unit" in str(error):
            self._milliseconds = False
            self._duration_ms = max(1000, self._duration_ms // 1000 * 1000)
        elif len(self._modes) > 1:
            del self._modes[0]
        else:
            raise error
