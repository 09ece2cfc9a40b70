"""Drives one migration through a source's monitor, from the settings to the last state.

It knows nothing of the VM behind the monitor.
"""

from collections.abc import Callable, Mapping

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.control.asking.progress import Progress, ask
from vmferry.control.asking.result import Result
from vmferry.control.following import Follower, follow
from vmferry.errors import CancelledError
from vmferry.migration.ports import Clock

IN_POSTCOPY = "the migration is in post-copy, where cancelling would lose the guest, so it goes on"


def set_up(monitor: Monitor, parameters: Mapping[str, object], *, auto_converge: bool) -> None:
    """Set capabilities and parameters. Raises CommandError if the VM refuses one; then none is set."""
    state = [{"capability": "auto-converge", "state": auto_converge}]
    if parameters:
        monitor.execute("migrate-set-parameters", dict(parameters))
    monitor.execute("migrate-set-capabilities", {"capabilities": state})


def drive(
    monitor: Monitor, uri: str, watch: Callable[[Progress], object], clock: Clock, cancel: CancelToken | None = None
) -> Result:
    """Migrate to `uri` and return how it ended; `watch` is called with every poll before.

    `cancel` cancels the migration, whoever sets it; the result then says so. In post-copy it does nothing.
    """
    return follow(monitor, clock, cancel or CancelToken(), _Beginner(monitor, uri, watch))


class _Beginner(Follower):
    def __init__(self, monitor: Monitor, uri: str, watch: Callable[[Progress], object]) -> None:
        self._monitor = monitor
        self._uri = uri
        self._watch = watch

    def begin(self) -> None:
        """Start the migration."""
        self._monitor.execute("migrate", {"uri": self._uri})

    def observe(self, progress: Progress) -> Progress:
        """Show a poll."""
        self._watch(progress)
        return progress

    def cancel(self, asked: CancelledError) -> bool:
        """Cancel it, unless it is in post-copy."""
        return cancel_migration(self._monitor)


def cancel_migration(monitor: Monitor) -> bool:
    """Cancel the migration unless it is in post-copy, where memory is on both sides and cancelling costs the guest.

    Returns whether it was cancelled.
    """
    if ask(monitor).in_postcopy:
        return False
    monitor.execute("migrate_cancel")
    return True
