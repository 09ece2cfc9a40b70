"""What every modelled QEMU has beside its guest: the lock of its main loop, and events for whoever listens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vmferry.client.qmp_client import Event
from vmferry.simulation.clock import VirtualClock

_NS_PER_S = 1_000_000_000


class Board:
    """The lock and the listeners of one QEMU process."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.listeners: list[list[Event]] = []
        """Where events are put, one list for each client."""
        self._holders = 0

    @property
    def is_locked(self) -> bool:
        """True while the main loop answers no command."""
        return self._holders > 0

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold QEMU's big lock."""
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1

    @contextmanager
    def let_others(self) -> Iterator[None]:
        """Let go of the lock, which is held once, for a while."""
        self._holders -= 1
        try:
            yield
        finally:
            self._holders += 1

    def tell(self, name: str, **data: Any) -> None:
        """Send an event."""
        event = Event(name, data, self.clock.now_ns() / _NS_PER_S)
        for listener in self.listeners:
            listener.append(event)
