"""What was changed on a VM, and how it is put back: only what still holds our value, as others may have changed it."""

from dataclasses import dataclass
from typing import Any

import msgspec

from vmferry.client.monitor import Executes
from vmferry.control.asking.progress import ask
from vmferry.errors import CommandError


@dataclass(frozen=True)
class Change:
    """One value that was changed."""

    name: str
    before: Any
    ours: Any
    is_capability: bool = False
    restored: bool = False
    """True if the VM's manager puts it back by itself, as it was changed during a migration of its own."""

    def command(self) -> tuple[str, dict[str, object]]:
        """Return the QMP command, and its arguments, that puts it back."""
        if self.is_capability:
            entry = {"capability": self.name, "state": self.before}
            return "migrate-set-capabilities", {"capabilities": [entry]}
        return "migrate-set-parameters", {self.name: self.before}

    def as_text(self) -> str:
        """Return that command as it is written."""
        execute, arguments = self.command()
        return msgspec.json.encode({"execute": execute, "arguments": arguments}).decode()


def put_back(monitor: Executes, changes: list[Change]) -> list[Change]:
    """Put back what still holds our value, unless the VM's manager does. Return what the VM refused.

    Raises MonitorError if nobody answers, VmLeftError if there is nothing left to put back.
    """
    now = _values(monitor)
    if any(change.restored for change in changes) and not ask(monitor).running:
        changes = [change for change in changes if not change.restored]  # what we found was not that of before
    left = []
    for change in changes:
        if now.get((change.is_capability, change.name)) == change.ours:
            try:
                monitor.execute(*change.command())
            except CommandError:
                left.append(change)
    return left


def _values(monitor: Executes) -> dict[tuple[bool, str], Any]:
    parameters = monitor.execute("query-migrate-parameters")
    capabilities = monitor.execute("query-migrate-capabilities")
    return {(False, name): value for name, value in parameters.items()} | {
        (True, entry["capability"]): entry["state"] for entry in capabilities
    }
