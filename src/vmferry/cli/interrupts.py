"""Interruptions, by whichever signal: they raise, or where a VM has to be left as it was found, set a token."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vmferry.cancel import CancelToken
from vmferry.errors import CancelledError, InterruptionError

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
def cancelled_by_signals() -> Iterator[CancelToken]:
    """Yield a token that the first SIGINT, SIGTERM or SIGHUP sets; those that follow change nothing.

    One that is ignored already, as under nohup, stays ignored.
    """
    cancel = CancelToken()
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    for number in _NUMBERS:
        if before[number] is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: cancel.set("interrupted", number))
    try:
        yield cancel
    finally:
        for number in _NUMBERS:
            signal.signal(number, before[number])


@contextmanager
def told_as(text: str, cancel: CancelToken) -> Iterator[None]:
    """Say what was interrupted: raise InterruptionError with this text if a signal has ended it."""
    try:
        yield
    except CancelledError as error:
        if cancel.signal_number is None:
            raise
        raise InterruptionError(text, cancel.signal_number) from error


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interruption(number)
