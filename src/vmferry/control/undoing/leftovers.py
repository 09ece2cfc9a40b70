"""What could not be put back on a VM: it is named, with the command that does it, and tried again if that can help."""

from collections.abc import Callable

from vmferry.client.monitor import Monitor
from vmferry.control.undoing.changes import Change
from vmferry.control.undoing.put_back_later import PATIENCE_S, put_back_later
from vmferry.control.undoing.way_in import vm_process

Later = Callable[[Monitor, list[Change]], str]
"""Has changes put back later, and returns by whom. Raises OSError if there is nobody."""


def by_process(monitor: Monitor, changes: list[Change]) -> str:
    """Start a process that puts changes back later, and return what it is called."""
    return f"process {put_back_later(monitor.where, vm_process(monitor), changes)}"


class Leftovers:
    """Takes what `Settings` leaves of one VM."""

    def __init__(self, monitor: Monitor, warn: Callable[[str], None], later: Later = by_process) -> None:
        """`later` has changes put back once the VM allows it."""
        self.commands: list[str] = []
        """The QMP commands that are left to do."""
        self._monitor = monitor
        self._process = vm_process(monitor)
        self._warn = warn
        self._later = later

    def leave(self, changes: list[Change], refused: bool) -> None:
        """Name the changes; what was refused, by a VM that answers, is left to a process that goes on trying.

        Of a VM whose process has ended nothing is left.
        """
        if self._process and not self._process.alive:
            return
        what = (
            f"is not put back: {self._who_does_it(changes)}"
            if refused
            else "may not be put back, as the VM does not answer"
        )
        for change in changes:
            self.commands.append(change.as_text())
            self._warn(f"{change.name} {what}; by hand: {change.as_text()}")

    def leave_refused(self, changes: list[Change], refused: bool) -> None:
        """Leave what was refused; a destination that does not answer has ended with its migration, as QEMU's do."""
        if refused:
            self.leave(changes, refused)

    def _who_does_it(self, changes: list[Change]) -> str:
        """Have somebody go on trying, and return a sentence that says who does."""
        try:
            who = self._later(self._monitor, changes)
        except OSError as error:
            return f"the VM refuses that now, and no process could be started that does it later ({error.strerror})"
        return f"the VM refuses that now; {who} does it once it lets, within {PATIENCE_S // 60} min"
