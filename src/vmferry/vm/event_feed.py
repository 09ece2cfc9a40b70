"""What a VM tells all who watch it: events, each in the thread in which it happens."""

import threading
import time
from collections.abc import Callable

from vmferry.migration.ports import Guest
from vmferry.monitor.vm_port import VmEvent


class EventFeed:
    """The events of one guest's VM, for any number of subscribers."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        self._subscribers: list[Callable[[VmEvent], None]] = []
        self._told_running = guest.running
        self._lock = threading.Lock()

    def subscribe(self, callback: Callable[[VmEvent], None]) -> None:
        """Call `callback` for every event from now on, in whichever thread it happens."""
        self._subscribers.append(callback)

    def emit(self, name: str, data: dict[str, object]) -> None:
        """Tell everybody of an event that happens now."""
        event = VmEvent(name, data, time.time_ns())
        for callback in self._subscribers:
            callback(event)

    def tell_whether_it_runs(self) -> None:
        """Tell that the guest runs or stands still, if that is not what was told last."""
        with self._lock:
            if self._guest.running != self._told_running:
                self._told_running = not self._told_running
                self.emit("RESUME" if self._told_running else "STOP", {})
