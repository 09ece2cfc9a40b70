"""What one outgoing migration is made of: its ports, and what was asked of it."""

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.migration.delta import Deltas
from vmferry.migration.events import Event
from vmferry.migration.ports import Channel, Clock, Guest, Journal
from vmferry.settings.parameters import MigrationParameters


@dataclass(frozen=True)
class Outgoing:
    """The ports of one migration whose connection is open."""

    guest: Guest
    channel: Channel
    clock: Clock
    journal: Journal
    parameters: Callable[[], MigrationParameters]
    """Asked at every use, so that changes act on the running migration."""
    auto_converge: bool
    deltas: Deltas | None
    """Makes the messages where only what changed of pages is sent; None where they go whole."""
    check_cancel: Callable[[], None]
    """Raises CancelledError if the migration is to end."""

    def record(self, event: Event) -> None:
        """Record what happens now."""
        self.journal.record(self.clock.now_ns(), event)
