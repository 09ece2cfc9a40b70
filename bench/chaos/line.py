"""One direction of a connection with a fault in it: bytes go in, and what is to be done comes out. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.chaos.faults import (
    AnyFault,
    Cut,
    Direction,
    Drip,
    Flip,
    Freeze,
    Interrupt,
    Kill,
    Nothing,
    Replay,
    Reset,
    Stall,
)
from bench.chaos.trigger import trigger_at
from vmferry.errors import PeerError


@dataclass(frozen=True)
class Pause:
    """Let nothing pass in this direction for so long."""

    duration_ms: int


Step = memoryview | Pause | Cut | Reset | Kill | Freeze | Interrupt
"""Bytes to pass on, or what befalls the connection or a process before the next ones."""


class Line:
    """What passes in `direction` while `fault` waits for its place, and from there on."""

    def __init__(self, fault: AnyFault, direction: Direction) -> None:
        self.has_fired = False
        self._fault = fault
        is_due_here = fault.place.direction is direction and not isinstance(fault, Nothing)
        self._trigger = trigger_at(fault.place) if is_due_here else None
        self._kept_bytes = fault.size_bytes if isinstance(fault, Replay) and self._trigger else 0
        self._last = b""
        """What is kept for a replay."""
        self._flip = 0
        self._dripping_bytes = 0

    def steps(self, data: bytes) -> Iterator[Step]:
        """Take the next bytes and yield what is to be done, in order."""
        view = memoryview(data)
        if not self._trigger:
            yield from self._passing(view)
            return
        before = self._bytes_before(view)
        yield from self._passing(view[:before])
        if before is not None:
            self._trigger = None
            self.has_fired = True
            yield from self._fire()
            yield from self._passing(view[before:])

    def _bytes_before(self, data: memoryview) -> int | None:
        assert self._trigger
        try:
            return self._trigger.bytes_before(data)
        except PeerError:  # no stream of ours, so there is no such place in it
            self._trigger = None
            return None

    def _fire(self) -> Iterator[Step]:
        match self._fault:
            case Stall(duration_ms=duration_ms):
                yield Pause(duration_ms)
            case Drip(size_bytes=size_bytes):
                self._dripping_bytes = size_bytes
            case Flip(bit=bit):
                self._flip = 1 << bit
            case Replay(size_bytes=size_bytes):
                yield memoryview(self._last)
            case Cut() | Reset() | Kill() | Freeze() | Interrupt() as fault:
                yield fault

    def _passing(self, data: memoryview) -> Iterator[Step]:
        if self._kept_bytes:
            self._last = (self._last + bytes(data[-self._kept_bytes :]))[-self._kept_bytes :]
        if self._flip and data:
            yield memoryview(bytes([data[0] ^ self._flip]))
            self._flip, data = 0, data[1:]
        while self._dripping_bytes and data:
            assert isinstance(self._fault, Drip)
            yield Pause(self._fault.gap_ms)
            yield data[:1]
            self._dripping_bytes, data = self._dripping_bytes - 1, data[1:]
        if data:
            yield data
