"""Stands between the source and the destination of a migration and breaks the connection as a fault says.

It passes bytes on as they come and buffers next to nothing, so that a stall is felt at once. Several connections are
served one after another; the fault, if it has not happened yet, waits in each for its place.
"""

import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Self

from bench.chaos.faults import AnyFault, Cut, Direction, Freeze, Interrupt, Kill, Nothing, Reset
from bench.chaos.line import Line, Pause, Step
from vmferry.errors import ChannelError
from vmferry.transport.sockets import connect, listen, local_address, stop_listening
from vmferry.transport.uri import Address

Incident = Cut | Reset | Kill | Freeze | Interrupt
_READ_BYTES = 65536
_MAX_RECORDED_BYTES = 64 << 20
_POLL_S = 0.02
_PLAY_S = 10.0
_CLOSE_AT_ONCE = struct.pack("ii", 1, 0)
"""Linger for no time: a TCP connection ends with a reset."""


class Proxy:
    """Listens at `address` and connects to `target`. A context manager that ends it.

    `act` is called in the proxy's thread with a fault that hits a process, and returns before the next byte passes.
    """

    def __init__(
        self, address: Address, target: Address, fault: AnyFault, act: Callable[[Kill | Freeze | Interrupt], None]
    ) -> None:
        self._listener = listen(address)
        self.address = local_address(self._listener)
        self.has_fired = False
        self.passed_bytes = dict.fromkeys(Direction, 0)
        self.recording = bytearray()
        """What the sources have sent, as long as it is not too much to keep."""
        self._target = target
        self._fault = fault
        self._act = act
        self._ending = False
        self._thread = threading.Thread(target=self._serve, name="proxy")
        self._thread.start()

    def close(self) -> None:
        """End all connections and stop listening."""
        self._ending = True
        self._thread.join()
        stop_listening(self._listener)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _serve(self) -> None:
        while not self._ending:
            if not select.select([self._listener], [], [], _POLL_S)[0]:
                continue
            with ExitStack() as stack:
                near = stack.enter_context(self._listener.accept()[0])
                near.setblocking(False)
                with suppress(ChannelError):  # nobody is there: the near end sees a closed connection
                    self._relay(near, stack.enter_context(connect(self._target, lambda: None)))

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        fault = Nothing(self._fault.place) if self.has_fired else self._fault
        pipes = (_Pipe(near, far, Line(fault, Direction.THERE)), _Pipe(far, near, Line(fault, Direction.BACK)))
        while not self._ending and any(pipe.is_open for pipe in pipes):
            _wait_for(pipes)
            for pipe, direction in zip(pipes, Direction, strict=True):
                for step in pipe.work():
                    self.has_fired = True
                    if not self._survives(step, near, far):
                        return
                self.has_fired |= pipe.line.has_fired
                self.passed_bytes[direction] = pipe.passed_bytes
                if direction is Direction.THERE and len(self.recording) < _MAX_RECORDED_BYTES:
                    self.recording += pipe.received

    def _survives(self, step: Incident, near: socket.socket, far: socket.socket) -> bool:
        """Let it happen and return whether the connection is still there."""
        match step:
            case Cut(half=True, place=place):
                _end(far if place.direction is Direction.THERE else near, socket.SHUT_WR)
            case Cut():
                _end(near, socket.SHUT_RDWR)
                _end(far, socket.SHUT_RDWR)
                return False
            case Reset():
                _reset(near)
                _reset(far)
                return False
            case _:
                self._act(step)
        return True


class _Pipe:
    """One direction: what is read from `incoming` goes to `outgoing`, as `line` lets it. Both are non-blocking."""

    def __init__(self, incoming: socket.socket, outgoing: socket.socket, line: Line) -> None:
        self.line = line
        self.is_open = True
        self.passed_bytes = 0
        self.received = b""
        """At the last reading."""
        self._incoming, self._outgoing = incoming, outgoing
        self._steps: Iterator[Step] = iter(())
        self._unsent = memoryview(b"")
        self._resume_s = 0.0

    @property
    def pause_s(self) -> float:
        """How long it has nothing to do yet."""
        return self._resume_s - time.monotonic()

    @property
    def waits_for(self) -> tuple[list[socket.socket], list[socket.socket]]:
        """The sockets that must be readable or writable before it can go on."""
        if not self.is_open or self.pause_s > 0:
            return [], []
        return ([], [self._outgoing]) if self._unsent else ([self._incoming], [])

    def work(self) -> Iterator[Incident]:
        """Pass on what one reading brings, as far as that is possible without waiting; yield what befalls meanwhile."""
        may_read, self.received = True, b""
        while self.is_open and self.pause_s <= 0:
            step = None if self._unsent else next(self._steps, None)
            if isinstance(step, memoryview):
                self._unsent = step
            elif isinstance(step, Pause):
                self._resume_s = time.monotonic() + step.duration_ms / 1000
            elif step:
                yield step
            elif not (self._send() if self._unsent else may_read and self._read()):
                return
            else:
                may_read = False

    def _read(self) -> bool:
        """Take what is there, if anything is."""
        try:
            data = self._incoming.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self.is_open = False
            _end(self._outgoing, socket.SHUT_WR)
        self.received = data
        self._steps = self.line.steps(data)
        return True

    def _send(self) -> bool:
        """Pass on what can be."""
        try:
            sent_bytes = self._outgoing.send(self._unsent)
        except BlockingIOError:
            return False
        except OSError:
            self.is_open = False
            return False
        self.passed_bytes += sent_bytes
        self._unsent = self._unsent[sent_bytes:]
        return True


def _wait_for(pipes: tuple[_Pipe, _Pipe]) -> None:
    """Wait until one of them can go on, for a short while at most."""
    there, back = (pipe.waits_for for pipe in pipes)
    pauses = [pipe.pause_s for pipe in pipes if pipe.pause_s > 0]
    select.select(there[0] + back[0], there[1] + back[1], [], min([_POLL_S, *pauses]))


def _end(connection: socket.socket, how: int) -> None:
    with suppress(OSError):  # it has ended already
        connection.shutdown(how)


def _reset(connection: socket.socket) -> None:
    """Close with a reset; a unix socket knows none, but its peer gets an error if it has sent what was not read."""
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _CLOSE_AT_ONCE)
    connection.close()


def play(target: Address, recording: bytes) -> None:
    """Send a recorded stream to a destination, as far as it takes it, and wait until it hangs up."""
    with connect(target, lambda: None) as connection, suppress(OSError):
        connection.settimeout(_PLAY_S)
        connection.sendall(recording)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(_READ_BYTES):
            pass
