"""A blocking QMP client for programs that wait for answers one at a time, of our VMs and of QEMU.

The monitor may be anybody's: messages are capped and everything that is not QMP is refused. A message ends where its
brackets close, for a monitor with `pretty=on` spreads it over lines. Nothing is sent before the monitor has greeted, so
after a monitor was given up as busy nothing happens when its other client leaves.
"""

import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Self, TypeVar

import msgspec

from vmferry.client.answers import check_answer
from vmferry.client.silence import why_stopped, why_ungreeted
from vmferry.client.vm_process import process_behind
from vmferry.errors import ChannelError, CommandError, MonitorError, PeerError
from vmferry.monitor.framing import BadInput, Frame, Framer
from vmferry.transport.sockets import connect
from vmferry.transport.tls import TlsClient
from vmferry.transport.tls_credentials import Endpoint, load_credentials
from vmferry.transport.tls_failure import failure
from vmferry.transport.uri import Address, MonitorAddress, TcpAddress, UnixAddress, parse_monitor_uri

MAX_MESSAGE_BYTES = 16 << 20
"""QEMU's longest answer, the schema, has about 200 KiB, and 560 KiB with `pretty=on`."""

MAX_NESTING = 1024
"""How deep messages may be nested; QEMU itself takes as many levels."""

MAX_KEPT_EVENTS = 1000
"""Older events that nobody waited for are forgotten."""

DEFAULT_TIMEOUT_S = 30.0
GREETING_TIMEOUT_S = 3.0
"""A monitor greets at once, or not before its other client has gone or its process goes on. A command that meets one
of these is to have ended within 5 s."""
HURRIED_TIMEOUT_S = 2.0
_READ_BYTES = 65536
_SLICE_S = 0.05
_HOSTNAME = "tls-hostname"
_LEAST_WAIT_S = 0.001
"""A timeout of 0 would mean not to wait at all."""


Returned = TypeVar("Returned")


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
        self,
        connection: socket.socket,
        where: str,
        timeout_s: float,
        greeting_timeout_s: float,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Be greeted and negotiate over `connection`, which is from now on ours. Raises MonitorError."""
        self._connection = connection
        self._while_waiting = while_waiting
        self.where = where
        """The address of the monitor."""
        self._timeout_s = timeout_s
        self._framer = Framer(MAX_MESSAGE_BYTES, MAX_NESTING)
        self._frames: deque[Frame] = deque()
        """What has come and was not yet looked at."""
        self._events: deque[Event] = deque(maxlen=MAX_KEPT_EVENTS)
        self._last_id = 0
        try:
            self.greeting = self._greeting(greeting_timeout_s)
            """What the monitor said of itself: its `version` and `capabilities`."""
            self.execute("qmp_capabilities", self._negotiable())
        except BaseException:
            connection.close()
            raise

    @classmethod
    def connect(
        cls, address: str, timeout_s: float = DEFAULT_TIMEOUT_S, while_waiting: Callable[[], None] = lambda: None
    ) -> Self:
        """Return a client of the monitor at `unix:PATH`, `tcp:HOST:PORT` or PATH.

        `tcp:HOST:PORT,tls-creds=DIRECTORY` speaks TLS, and `,tls-hostname=NAME` is whom the monitor's certificate must
        be of, if not of HOST.
        No answer may take longer than `timeout_s`, and until the greeting no longer than GREETING_TIMEOUT_S either.
        `while_waiting` is called at least every 100 ms while one is waited for; what it raises ends the waiting.
        Raises UsageError for what is no address, and MonitorError if nothing that speaks QMP is there.
        """
        told = parse_monitor_uri(f"unix:{address}" if address.startswith(("/", ".")) else address, _HOSTNAME)
        tls = _tls_of(told)
        deadline = _Deadline(min(timeout_s, GREETING_TIMEOUT_S), lambda: _why_unconnected(told.address), while_waiting)
        connection = _open(told.address, tls, deadline)
        return cls(connection, str(told), timeout_s, deadline.left_s, while_waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def descriptor(self) -> int | None:
        """The file descriptor of the connection; None with TLS, whose keys nobody else has."""
        return None if isinstance(self._connection, ssl.SSLSocket) else self._connection.fileno()

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
        return self._request("execute", command, arguments)

    def execute_out_of_band(self, command: str, arguments: Mapping[str, object]) -> Any:
        """Carry out one of the few commands, such as `yank`, that QEMU obeys also while it waits for something else.

        Raises CommandError and MonitorError as `execute` does.
        """
        return self._request("exec-oob", command, arguments)

    def _negotiable(self) -> dict[str, object]:
        offered = self.greeting.get("capabilities")
        return {"enable": ["oob"]} if isinstance(offered, list) and "oob" in offered else {}

    def _request(self, verb: str, command: str, arguments: Mapping[str, object] | None) -> Any:
        self._last_id += 1
        request = {verb: command, "arguments": arguments or {}, "id": self._last_id}
        deadline = self._deadline(self._timeout_s, lambda: self._why_unanswered(command))
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
        deadline = self._deadline(timeout_s, lambda: f"the VM at {self.where} sent no {name} event in {timeout_s:g} s")
        while True:
            while self._events:
                event = self._events.popleft()
                if event.name == name:
                    return event
            self._take(self._read_message(deadline))

    def take_events(self) -> list[Event]:
        """Return the events that came along with answers so far, and forget them."""
        events = list(self._events)
        self._events.clear()
        return events

    def hurry(self) -> None:
        """Wait only briefly for answers from now on."""
        self._timeout_s = min(self._timeout_s, HURRIED_TIMEOUT_S)

    def _greeting(self, timeout_s: float) -> dict[str, Any]:
        deadline = self._deadline(timeout_s, lambda: why_ungreeted(self._connection, self.where))
        greeting = self._take(self._read_message(deadline))
        if not greeting or not isinstance(greeting.get("QMP"), dict):
            raise self._babble()
        return dict(greeting["QMP"])

    def _next_message(self, deadline: "_Deadline") -> dict[str, Any]:
        """Return the next message that is no event."""
        while True:
            message = self._take(self._read_message(deadline))
            if message is not None:
                return message

    def _take(self, text: bytes) -> dict[str, Any] | None:
        """Return the message, or None if it was an event, which is kept."""
        try:
            message = msgspec.json.decode(text, type=dict[str, Any])
            if "event" not in message:
                return message
            event = msgspec.convert(message, _EventMessage)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._babble() from error
        self._events.append(Event(event.event, event.data, event.timestamp.as_seconds()))
        return None

    def _babble(self, reason: str = "") -> MonitorError:
        return MonitorError(f"what answers at {self.where} is no QMP monitor{reason}")

    def _deadline(self, timeout_s: float, why: Callable[[], str]) -> "_Deadline":
        return _Deadline(timeout_s, why, self._while_waiting)

    def _send(self, data: bytes, deadline: "_Deadline") -> None:
        while data:
            data = data[self._wait_for(partial(self._connection.send, data), deadline) :]

    def _read_message(self, deadline: "_Deadline") -> bytes:
        """Return the text of the next message."""
        while not self._frames:
            data = self._wait_for(partial(self._connection.recv, _READ_BYTES), deadline)
            if not data:
                raise MonitorError(f"the monitor at {self.where} closed the connection")
            self._frames.extend(self._framer.feed(data))
        frame = self._frames.popleft()
        if isinstance(frame, BadInput):
            raise self._babble()
        return frame

    def _why_unanswered(self, command: str) -> str:
        later = "" if command.startswith("query-") else "; it may still carry it out"
        return f"the monitor at {self.where} does not answer {command}{later}"

    def _wait_for(self, call: Callable[[], Returned], deadline: "_Deadline") -> Returned:
        """Let one system call wait until the deadline, and turn its failure into a MonitorError."""
        while True:
            try:
                self._connection.settimeout(min(max(deadline.left_s, _LEAST_WAIT_S), _SLICE_S))
                return call()
            except (TimeoutError, ssl.SSLWantReadError) as error:
                deadline.while_waiting()
                if deadline.left_s <= 0:
                    raise MonitorError(why_stopped(self._connection) or deadline.why()) from error
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
    """A moment after which waiting ends; `why` tells then what was waited for."""

    def __init__(self, timeout_s: float, why: Callable[[], str], while_waiting: Callable[[], None]) -> None:
        self._end_s = time.monotonic() + timeout_s
        self.why = why
        self.while_waiting = while_waiting

    @property
    def left_s(self) -> float:
        """The time that is left; none or less if it is over."""
        return self._end_s - time.monotonic()

    def check(self) -> None:
        """Raise MonitorError if time is up."""
        self.while_waiting()
        if self.left_s <= 0:
            raise MonitorError(self.why())


class _Timestamp(msgspec.Struct):
    seconds: Annotated[int, msgspec.Meta(ge=-1, le=1 << 40)]
    microseconds: int

    def as_seconds(self) -> float:
        return self.seconds + self.microseconds / 1e6


class _EventMessage(msgspec.Struct):
    event: str
    timestamp: _Timestamp
    data: dict[str, Any] = {}


def _tls_of(told: MonitorAddress) -> TlsClient | None:
    if not told.tls:
        return None
    assert isinstance(told.address, TcpAddress)
    hostname = told.tls.get(_HOSTNAME, [told.address.host])[-1]
    return TlsClient(load_credentials(told.tls["tls-creds"][-1], Endpoint.CLIENT), hostname, "the monitor")


def _open(address: Address, tls: TlsClient | None, deadline: _Deadline) -> socket.socket:
    try:
        connection = connect(address, deadline.check)
        return tls.wrap(connection, deadline.check).socket if tls else connection
    except PeerError as error:
        raise MonitorError(f"cannot use the monitor at {address}: {error}") from error
    except ChannelError as error:
        reason = getattr(error.__cause__, "strerror", None) or error
        raise MonitorError(f"cannot reach the monitor at {address}: {reason}; does the VM run?") from error


def _why_unconnected(address: Address) -> str:
    if isinstance(address, UnixAddress):  # the kernel makes nobody wait but for a place in the queue
        return (
            f"the queue of the monitor at {address} is full: another client is connected, or its process is stopped; "
            "end those who wait there, or give the VM one more monitor (-qmp)"
        )
    return f"cannot reach the monitor at {address}: no answer in time; does the VM run, or do other clients wait there?"


def _reason(error: OSError) -> str:
    return str(failure(error, "it")) if isinstance(error, ssl.SSLError) else error.strerror or str(error)
