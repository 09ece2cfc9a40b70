"""What could not be put back on a VM: it is named, with the command that does it, and tried again if that can help."""

from collections.abc import Callable

from vmferry.client.monitor import Monitor
from vmferry.control.put_back_later import PATIENCE_S, put_back_later
from vmferry.control.settings import Change
from vmferry.control.way_in import vm_process


class Leftovers:
    """Takes what `Settings` leaves of one VM."""

    def __init__(self, monitor: Monitor, warn: Callable[[str], None]) -> None:
        self.commands: list[str] = []
        """QMP commands that are left to do."""
        self._monitor = monitor
        self._warn = warn

    def leave(self, changes: list[Change], refused: bool) -> None:
        """Name the changes; what was refused, by a VM that answers, is left to a process that goes on trying."""
        what = (
            f"is not put back: {self._later(changes)}" if refused else "may not be put back, as the VM does not answer"
        )
        for change in changes:
            self.commands.append(change.as_text())
            self._warn(f"{change.name} {what}; by hand: {change.as_text()}")

    def _later(self, changes: list[Change]) -> str:
        """Have a process try on, and say so."""
        try:
            pid = put_back_later(self._monitor.where, vm_process(self._monitor), changes)
        except OSError as error:
            return f"the VM refuses that now, and no process could be started that does it later ({error.strerror})"
        return f"the VM refuses that now; process {pid} does it once it lets, within {PATIENCE_S // 60} min"
