"""What a driver promises to undo, told to whoever does it when the driver is gone."""

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vmferry.control.host.own_group import OwnGroup
from vmferry.control.undoing.way_in import vm_process
from vmferry.errors import HostError

if TYPE_CHECKING:
    from vmferry.client.monitor import Monitor
    from vmferry.control.undoing.changes import Change


class Promises(ABC):
    """Takes promises, each before the step that it undoes. Raises HostError if nobody is there to keep them."""

    def __init__(self) -> None:
        self._promise_count = 0

    def will_reach(self, monitor: "Monitor") -> None:
        """Have a VM reached by this connection, as long as nothing is waited for; commands go to the first VM."""
        self._promise("vm", *_way_to(monitor))

    def will_dissolve(self, group: OwnGroup) -> None:
        """Have a control group dissolved at the end."""
        self._promise("group", group.thread.id, group.thread.start_ticks, str(group.home), group.home_inode)

    def will_take_cpu_back(self, group: Path) -> None:
        """Have the cpu controller taken from the groups below `group` at the end, if there is none left (cgroup v2)."""
        self._promise("take-cpu-back", str(group), group.stat().st_ino)

    def will_send(self, command: str, arguments: Mapping[str, object]) -> int:
        """Have a QMP command sent to the monitor at the end. Returns the number of the promise."""
        return self._promise("send", command, arguments)

    def will_set_back(self, before: Mapping[str, object], ours: Mapping[str, object]) -> int:
        """Have migration parameters that still are as in `ours` set to `before`. Returns the number of the promise."""
        return self._promise("set-back", before, ours)

    def will_put_back(self, monitor: "Monitor", changes: Sequence["Change"]) -> int:
        """Have what was changed on that VM put back once no migration runs there. Returns the number of the promise."""
        return self._promise("put-back", [asdict(change) for change in changes], *_way_to(monitor))

    def will_let_run(self, destination: "Monitor", ran: bool) -> int:
        """Have the guest let run at the destination once the source has completed, if it ran there before.

        Returns the number of the promise.
        """
        return self._promise("let-run", ran, *_way_to(destination))

    def kept(self, promise: int) -> None:
        """Take note that the driver has kept a promise itself, or that there is nothing to it any more."""
        with contextlib.suppress(HostError):  # a guard that is gone keeps none
            self._promise("kept", promise)

    @abstractmethod
    def _write(self, promise: str) -> None:
        """Tell a promise, one line of JSON: its number, its kind, and what belongs to that. Raises HostError."""

    def _promise(self, *step: object) -> int:
        self._promise_count += 1
        self._write(json.dumps([self._promise_count, *step]))
        return self._promise_count


def _way_to(monitor: "Monitor") -> tuple[str, int | None, int | None, int | None]:
    """Return address and connection of a monitor, its process on this host and when that started.

    The latter are None if they are not certain.
    """
    process = vm_process(monitor)
    return monitor.where, monitor.descriptor, *((process.id, process.start_ticks) if process else (None, None))
