"""What everybody who drives one migration needs."""

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.migration.ports import Clock


@dataclass(frozen=True)
class Ports:
    """The ways to the VM, to time, and to people."""

    monitor: Monitor
    """The source's."""
    clock: Clock
    cancel: CancelToken
    """Set by whoever wants the migration to end."""
    tell: Callable[[str], None]
    """Gets lines for people."""
    warn: Callable[[str], None]
    """Gets a line for each thing that is left undone."""
