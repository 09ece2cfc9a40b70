"""A blocking QMP client for programs that wait for answers one at a time, of our VMs and of QEMU.

The monitor may be anybody's: lines are capped and everything that is no QMP is refused.
"""

import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Any, Self

import msgspec

from vmferry.control.answers import check_answer
from vmferry.control.vm_process import process_behind
from vmferry.errors import CommandError, MonitorError
from vmferry.transport.uri import Address, UnixAddress, parse_uri

MAX_LINE_BYTES = 16 << 20
"""QEMU's longest answer, the schema, has about 200 KiB."""

MAX_KEPT_EVENTS = 1000
"""Older events that nobody waited for are forgotten."""

DEFAULT_TIMEOUT_S = 30.0
HURRIED_TIMEOUT_S = 2.0
_READ_BYTES = 65536


@dataclass(frozen=True)
class Event:
    """An event of a VM; `time_s` is the VM host's clock, seconds since the Unix epoch."""

    name: str
    data: dict[str, Any]
    time_s: float


class QmpClient:
    """A connection to a monitor, past the negotiation. A context manager that closes it."""

    manager = None
    """A monitor's own socket does not tell who looks after the VM."""

    def __init__(
        self, connection: socket.socket, where: str, timeout_s: float, greeting_timeout_s: float | None = None
    ) -> None:
        """Greet and negotiate over `connection`, which is from now on ours. Raises MonitorError."""
        self._connection = connection
        self.where = where
        """The address of the monitor."""
        self._timeout_s = timeout_s
        self._received = bytearray()
        """Begins with the first line not yet looked at."""
        self._events: deque[Event] = deque(maxlen=MAX_KEPT_EVENTS)
        self._last_id = 0
        try:
            self.greeting = self._greeting(greeting_timeout_s or timeout_s)
            """What the monitor said of itself: its `version` and `capabilities`."""
            self.execute("qmp_capabilities")
        except BaseException:
            connection.close()
            raise

    @classmethod
    def connect(
        cls, address: str, timeout_s: float = DEFAULT_TIMEOUT_S, greeting_timeout_s: float | None = None
    ) -> Self:
        """Return a client of the monitor at `unix:PATH`, `tcp:HOST:PORT` or PATH.

        No answer may take longer than `timeout_s`, and the greeting not longer than `greeting_timeout_s` if given.
        Raises UsageError for what is no address, and MonitorError if nothing that speaks QMP is there.
        """
        parsed = parse_uri(f"unix:{address}" if address.startswith(("/", ".")) else address)
        try:
            connection = _open(parsed, timeout_s)
        except OSError as error:
            raise MonitorError(f"cannot reach the monitor at {parsed}: {_reason(error)}; does the VM run?") from error
        return cls(connection, str(parsed), timeout_s, greeting_timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def peer_pid(self) -> int:
        """The process on this host that serves the monitor. Raises HostError if that cannot be told for sure."""
        return process_behind(self._connection)

    def close(self) -> None:
        """Close the connection; harmless if it is closed."""
        self._connection.close()

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Carry out a command and return its answer.

        Raises CommandError if the monitor refuses it, and MonitorError if no answer comes.
        """
        self._last_id += 1
        request = {"execute": command, "arguments": arguments or {}, "id": self._last_id}
        deadline = _Deadline(self._timeout_s, f"the monitor at {self.where} does not answer {command}")
        self._send(msgspec.json.encode(request) + b"\n", deadline)
        while True:
            message = self._next_message(deadline)
            # The answer to an earlier command comes late if waiting for it was interrupted.
            if message.get("id", self._last_id) == self._last_id:
                try:
                    return result_of(command, message)
                except ValueError as error:
                    raise self._babble(f": its answer to {command}: {error}") from error

    def wait_event(self, name: str, timeout_s: float) -> Event:
        """Return the oldest event of that name not yet returned, and forget those before it.

        Raises MonitorError if none comes in time.
        """
        deadline = _Deadline(timeout_s, f"the VM at {self.where} sent no {name} event in {timeout_s:g} s")
        while True:
            while self._events:
                event = self._events.popleft()
                if event.name == name:
                    return event
            self._take(self._read_line(deadline))

    def take_events(self) -> list[Event]:
        """Return the events that came along with answers so far, and forget them."""
        events = list(self._events)
        self._events.clear()
        return events

    def hurry(self) -> None:
        """Wait only briefly for answers from now on."""
        self._timeout_s = min(self._timeout_s, HURRIED_TIMEOUT_S)

    def _greeting(self, timeout_s: float) -> dict[str, Any]:
        deadline = _Deadline(
            timeout_s, f"nothing at {self.where} greets as a monitor does; another client may be connected"
        )
        greeting = self._take(self._read_line(deadline))
        if not greeting or not isinstance(greeting.get("QMP"), dict):
            raise self._babble()
        return dict(greeting["QMP"])

    def _next_message(self, deadline: "_Deadline") -> dict[str, Any]:
        """Return the next message that is no event."""
        while True:
            message = self._take(self._read_line(deadline))
            if message is not None:
                return message

    def _take(self, line: bytes) -> dict[str, Any] | None:
        """Return the message, or None if it was an event, which is kept."""
        try:
            message = msgspec.json.decode(line, type=dict[str, Any])
            if "event" not in message:
                return message
            event = msgspec.convert(message, _EventMessage)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._babble() from error
        self._events.append(Event(event.event, event.data, event.timestamp.as_seconds()))
        return None

    def _babble(self, reason: str = "") -> MonitorError:
        return MonitorError(f"what answers at {self.where} is no QMP monitor{reason}")

    def _send(self, data: bytes, deadline: "_Deadline") -> None:
        with self._translated(deadline):
            self._connection.sendall(data)

    def _read_line(self, deadline: "_Deadline") -> bytes:
        looked_at = 0
        while (end := self._received.find(b"\n", looked_at)) < 0:
            looked_at = len(self._received)
            if looked_at > MAX_LINE_BYTES:
                raise self._babble()
            with self._translated(deadline):
                data = self._connection.recv(_READ_BYTES)
            if not data:
                raise MonitorError(f"the monitor at {self.where} closed the connection")
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    @contextmanager
    def _translated(self, deadline: "_Deadline") -> Iterator[None]:
        """Let one system call wait until the deadline, and turn its failure into a MonitorError."""
        try:
            self._connection.settimeout(deadline.left_s())
            yield
        except TimeoutError as error:
            raise MonitorError(deadline.text) from error
        except OSError as error:
            raise MonitorError(f"the monitor at {self.where} is gone: {_reason(error)}") from error


def result_of(command: str, message: Mapping[str, Any]) -> Any:
    """Return what a command has returned. Raises CommandError if it was refused, and ValueError if it is no answer."""
    if "return" in message:
        check_answer(command, message["return"])
        return message["return"]
    match message.get("error"):
        case {"class": str(error_class), "desc": str(text)}:
            raise CommandError(text, error_class)
        case _:
            raise ValueError("no answer of QMP")


class _Deadline:
    """A moment after which waiting ends with an error of this text."""

    def __init__(self, timeout_s: float, text: str) -> None:
        self._end_s = time.monotonic() + timeout_s
        self.text = text

    def left_s(self) -> float:
        """Return the time that is left. Raises TimeoutError if there is none."""
        left_s = self._end_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        return left_s


class _Timestamp(msgspec.Struct):
    seconds: Annotated[int, msgspec.Meta(ge=-1, le=1 << 40)]
    microseconds: int

    def as_seconds(self) -> float:
        return self.seconds + self.microseconds / 1e6


class _EventMessage(msgspec.Struct):
    event: str
    timestamp: _Timestamp
    data: dict[str, Any] = {}


def _open(address: Address, timeout_s: float) -> socket.socket:
    if not isinstance(address, UnixAddress):
        return socket.create_connection((address.host or "localhost", address.port), timeout_s)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout_s)
        connection.connect(address.path)
    except OSError:
        connection.close()
        raise
    return connection


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or "no answer in time"
