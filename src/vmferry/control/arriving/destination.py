"""The other side of a migration, looked at through its own monitor."""

from vmferry.client.monitor import Monitor
from vmferry.client.processes import PROC
from vmferry.control.asking.run_states import run_state
from vmferry.errors import CommandError, HostError, MonitorError, UsageError
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_MS, NS_PER_S

WAITING = "inmigrate"
ARRIVAL_TIMEOUT_NS = 10 * NS_PER_S
"""How long to wait for a guest that was sent."""
_POLL_INTERVAL_NS = 100 * NS_PER_MS
_PAUSED = frozenset({b"-S", b"--S"})


class Destination:
    """A VM that waits for a guest."""

    def __init__(self, monitor: Monitor, clock: Clock) -> None:
        self.monitor = monitor
        self._clock = clock
        self.is_held = False
        """True once it was told not to let a guest run by itself."""
        self.is_owed_cont = False
        """True if it was to let the guest run, and did not obey."""

    def starts_paused(self) -> bool:
        """Tell whether it was started with `-S`, so that somebody else lets its guest run.

        False as well if its process is not seen on this host.
        """
        try:
            words = (PROC / str(self.monitor.peer_pid) / "cmdline").read_bytes().split(b"\0")
        except (HostError, MonitorError, OSError):
            return False
        return not _PAUSED.isdisjoint(words)

    def hold(self) -> None:
        """Have it keep paused whatever guest arrives. Raises MonitorError; CommandError if it refuses."""
        self.is_held = True  # also if nobody waits for the answer
        try:
            self.monitor.execute("stop")
        except CommandError:
            self.is_held = False
            raise

    def let_run(self) -> None:
        """Let the guest run, at once or as soon as it is there. Raises MonitorError."""
        self.is_owed_cont = True
        self.monitor.execute("cont")
        self.is_owed_cont = False

    def require_waiting(self) -> None:
        """Raise UsageError unless it waits for a guest."""
        status = self.status()
        if status != WAITING:
            raise UsageError(f"the destination is '{status}' and waits for no guest; start it with -incoming")

    def status(self) -> str | None:
        """Return its run state; None if its monitor is gone."""
        try:
            return run_state(self.monitor)
        except MonitorError:
            return None

    def await_guest(self) -> str | None:
        """Return its run state once it is another than WAITING, or after ten seconds."""
        end_ns = self._clock.now_ns() + ARRIVAL_TIMEOUT_NS
        while (status := self.status()) == WAITING and self._clock.now_ns() < end_ns:
            self._clock.sleep_ns(_POLL_INTERVAL_NS)
        return status
