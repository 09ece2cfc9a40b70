"""A guest that is slowed from outside, as long as that is possible."""

from collections.abc import Callable
from contextlib import suppress
from typing import Self

from vmferry.client.monitor import Monitor
from vmferry.control.asking.progress import POLL_INTERVAL_NS
from vmferry.control.asking.run_states import FINISHING, run_state
from vmferry.control.slowing.means import Means
from vmferry.errors import HostError, MonitorError
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_MS

_STOP_POLL_NS = 10 * NS_PER_MS
"""How often to look whether the guest is being stopped; the downtime may be that much longer."""


class SlowedGuest:
    """A context manager that lets the guest run at full speed in the end."""

    def __init__(self, monitor: Monitor, clock: Clock, means: Means) -> None:
        self.means = means
        self._monitor = monitor
        self._clock = clock
        self.is_over = False
        """True once nothing is to slow it any more."""
        self._is_released = False

    @property
    def in_force_percent(self) -> int:
        """What is taken from it now, as far as QEMU does not tell itself."""
        return 0 if self.is_over else self.means.in_force_percent

    def pause(self, wait_ns: Callable[[int], None]) -> None:
        """Wait until the next poll, and let the guest run as soon as QEMU wants to stop it for the switchover.

        QEMU waits for each vCPU to notice that it is to stop, and one that is out of quota notices nothing.
        """
        end_ns = self._clock.now_ns() + POLL_INTERVAL_NS
        while (left_ns := end_ns - self._clock.now_ns()) > 0:
            if not self.in_force_percent or not self.means.throttle.delays_stop:
                wait_ns(left_ns)  # or less: the source has said something
                break
            if run_state(self._monitor) == FINISHING:
                self.release()
            else:
                wait_ns(min(left_ns, _STOP_POLL_NS))

    def release(self) -> bool:
        """End the throttle. Harmless if it has ended. Returns whether it has; otherwise that is for the guard."""
        if not self.is_over:
            self.is_over = True
            with suppress(HostError, MonitorError, OSError):
                self.means.release()
                self._is_released = True
        return self._is_released

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()
