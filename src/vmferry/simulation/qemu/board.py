"""What every modelled QEMU has beside its guest: the main loop with its lock, and events for whoever listens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from vmferry.client.qmp_client import Event
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.qemu.waking import wake_ns
from vmferry.units import NS_PER_MS, NS_PER_S

_LEAST_ANSWER_NS = 300_000
_MEAN_SET_UP_NS = 10 * NS_PER_MS
"""How long a migration takes to be set up, on average.

Eight of a QEMU 7.2 and eight of a QEMU 10 took 0 to 42 ms. It decides where QEMU's windows of 100 ms lie between the
questions of whoever drives it, and so how many bursts fall into a measurement.
"""


class Board:
    """The main loop, the lock and the listeners of one QEMU process."""

    def __init__(self, clock: VirtualClock, random: np.random.Generator) -> None:
        self.clock = clock
        self._random = random
        self.listeners: list[list[Event]] = []
        """Where events are put, one list for each client."""
        self._holders = 0

    def answer_ns(self) -> int:
        """Return how long it takes from one more command to its answer, if the main loop is not locked."""
        return _LEAST_ANSWER_NS + self.wake_ns()

    def wake_ns(self) -> int:
        """Return how late a thread that has waited goes on, this time."""
        return wake_ns(self._random)

    def set_up_ns(self) -> int:
        """Return how long a migration takes to be set up, this time."""
        return round(self._random.exponential(_MEAN_SET_UP_NS))

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
        event = Event(name, data, self.clock.now_ns() / NS_PER_S)
        for listener in self.listeners:
            listener.append(event)
