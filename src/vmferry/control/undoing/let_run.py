"""What a guard does about a guest held at its destination by the driver: it runs once the source has completed."""

from vmferry.control.asking.run_states import ran
from vmferry.control.undoing.undo_steps import SendCommand
from vmferry.control.undoing.way_in import WayIn
from vmferry.errors import CommandError, MonitorError

_GOES_ON = frozenset({"setup", "wait-unplug", "active", "pre-switchover", "device", "cancelling"})


class LetRun:
    """Waits for the source's last word. A source that has failed or was cancelled runs on, so nothing is done then."""

    def __init__(self, source: WayIn, destination: WayIn, has_run: bool) -> None:
        """`has_run` says that the guest ran at the source when the driver looked last."""
        self._source = source
        self._destination = destination
        self._ran = has_run

    def attempt(self) -> bool:
        """Ask the source, and let the guest run; False if that has to wait."""
        try:
            status = self._source.execute("query-migrate", {}).get("status", "none")
            if status in _GOES_ON:
                self._look()
                return False
        except CommandError:
            raise
        except MonitorError:
            return self._without_source()
        return self._let_run() if status == "completed" or status.startswith("postcopy") else True

    def by_hand(self) -> str:
        """Return the command, and when it is to be sent."""
        return f"once the source says completed, {SendCommand(self._destination, 'cont', {}).by_hand()}"

    def _look(self) -> None:
        """Notice if somebody pauses the guest, or lets it run."""
        self._ran = ran(self._source.execute("query-status", {})["status"], self._ran)

    def _without_source(self) -> bool:
        """Let a guest that has arrived run if the source's process has ended, as there is no other copy then."""
        if not (self._source.vm_is_known and self._source.vm_is_gone):
            return False
        try:
            if self._destination.execute("query-status", {})["status"] != "paused":
                return False
        except MonitorError:
            return self._destination.vm_is_gone
        return self._let_run()

    def _let_run(self) -> bool:
        return not self._ran or SendCommand(self._destination, "cont", {}).attempt()
