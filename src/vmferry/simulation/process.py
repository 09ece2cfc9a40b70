"""Processes in virtual time: what goes on beside whoever lets the clock run."""

from collections.abc import Generator

from vmferry.simulation.clock import VirtualClock

Steps = Generator[int]
"""What a process does: again and again it yields how many ns it waits."""


def start(clock: VirtualClock, steps: Steps) -> None:
    """Let a process go on from now, each time after the wait that it has asked for."""

    def go_on() -> None:
        wait_ns = next(steps, None)
        if wait_ns is not None:
            clock.schedule(clock.now_ns() + wait_ns, go_on)

    clock.schedule(clock.now_ns(), go_on)
