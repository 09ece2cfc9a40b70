"""The other side of a migration, looked at through its own monitor."""

import time

from vmferry.control.monitor import Monitor
from vmferry.errors import MonitorError, UsageError

WAITING = "inmigrate"
_ARRIVAL_TIMEOUT_S = 10.0
_POLL_INTERVAL_S = 0.1


class Destination:
    """A VM that waits for a guest."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor

    def require_waiting(self) -> None:
        """Raise UsageError unless it waits for a guest."""
        status = self.status()
        if status != WAITING:
            raise UsageError(f"the destination is '{status}' and waits for no guest; start it with -incoming")

    def status(self) -> str | None:
        """Return its run state; None if its monitor is gone."""
        try:
            return str(self._monitor.execute("query-status")["status"])
        except MonitorError:
            return None

    def await_guest(self) -> str | None:
        """Return its run state once it is another than WAITING, or after ten seconds."""
        end_s = time.monotonic() + _ARRIVAL_TIMEOUT_S
        while (status := self.status()) == WAITING and time.monotonic() < end_s:
            time.sleep(_POLL_INTERVAL_S)
        return status
