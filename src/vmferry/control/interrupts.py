"""Interruptions, by whichever signal and however often: what the first one begins must not be interrupted itself."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption(KeyboardInterrupt):
    """A signal has asked to end, which is what Ctrl-C does; `signal_number` is its number."""

    def __init__(self, signal_number: int) -> None:
        super().__init__()
        self.signal_number = signal_number


def signal_number_of(error: KeyboardInterrupt) -> int:
    """Return the number of the signal that caused this; Python itself raises KeyboardInterrupt for SIGINT."""
    return error.signal_number if isinstance(error, Interruption) else signal.SIGINT


def raise_interruptions() -> None:
    """Let SIGTERM and SIGHUP raise Interruption, as SIGINT does, but not one that is ignored, as under nohup."""
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


@contextmanager
def interrupted_once() -> Iterator[None]:
    """Let the first SIGINT, SIGTERM or SIGHUP raise Interruption, and ignore those that follow.

    One that is ignored already, as under nohup, stays ignored.
    """
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    for number in _NUMBERS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, _interrupt_once)
    try:
        yield
    finally:
        for number in _NUMBERS:
            signal.signal(number, before[number])


def ignore_interrupts() -> None:
    """Ignore signals from now on that would interrupt, until `interrupted_once` ends."""
    for number in _NUMBERS:
        if signal.getsignal(number) is _interrupt_once:
            signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interruption(number)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    ignore_interrupts()
    raise Interruption(number)
