"""What a VM process gives to those who work in it for its guest."""

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.migration.ports import Clock


@dataclass(frozen=True)
class VmPorts:
    """The ports of one VM process."""

    clock: Clock
    log: Callable[[str], None]
    """Told, in one line each, what an operator should read."""
    check_end: Callable[[], None]
    """Called while waiting; raises CancelledError when the process ends."""
