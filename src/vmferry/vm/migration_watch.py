"""What a migration says of itself in its journal, passed on to run control, to clients and to the operator."""

from collections.abc import Callable

from vmferry.migration.events import (
    CompressionChosen,
    Event,
    LinkStalled,
    StatusChanged,
    SwitchoverBegan,
    SwitchoverFailed,
    Synced,
)
from vmferry.migration.status import MigrationStatus
from vmferry.units import NS_PER_S
from vmferry.vm.event_feed import EventFeed
from vmferry.vm.run_control import RunControl
from vmferry.vm.telling import choice


class MigrationWatch:
    """A journal that keeps nothing. `tells_clients` says whether those want events of migrations."""

    def __init__(
        self, run_control: RunControl, events: EventFeed, tells_clients: Callable[[], bool], log: Callable[[str], None]
    ) -> None:
        self._run_control = run_control
        self._events = events
        self._tells_clients = tells_clients
        self._log = log

    def record(self, time_ns: int, event: Event) -> None:
        """Pass one event on, in the migration's thread."""
        match event:
            case SwitchoverBegan():
                self._run_control.note_hand_over(begun=True)
            case SwitchoverFailed():
                self._run_control.note_hand_over(begun=False)
                self._events.tell_whether_it_runs()
            case StatusChanged(new=status):
                self._follow(status)
            case LinkStalled(duration_ns=duration_ns, over=over):
                stood = "moves again after" if over else "has stood still for"
                self._log(f"the migration's link {stood} {duration_ns / NS_PER_S:.1f} s")
            case CompressionChosen():
                self._log(choice(event))
            case Synced(kind="iteration", iteration_count=count):
                self._tell("MIGRATION_PASS", {"pass": count})

    def tell_status(self, status: MigrationStatus) -> None:
        """Tell clients of a status, if they want to know."""
        self._tell("MIGRATION", {"status": status.value})

    def _follow(self, status: MigrationStatus) -> None:
        if not status.is_running:
            self._run_control.note_hand_over(begun=False)
        self._events.tell_whether_it_runs()
        if not (self._run_control.awaits_guest and status is MigrationStatus.COMPLETED):
            self.tell_status(status)  # a destination's follows RESUME, as in QEMU

    def _tell(self, name: str, data: dict[str, object]) -> None:
        if self._tells_clients():
            self._events.emit(name, data)
