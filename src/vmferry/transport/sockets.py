"""Making connections.

No call waits longer than 100 ms without calling `while_blocked`, which may raise.
"""

import errno
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from typing import Any, Protocol, runtime_checkable

from vmferry.errors import ChannelError, UsageError
from vmferry.transport.uri import Address, TcpAddress, UnixAddress

_Target = tuple[Any, ...] | str
_WAIT_MS = 50
_UNIX_MODE = 0o600
_UNIX_BUFFER_BYTES = 4 << 20
_BACKLOG = 128
"""Connections that the kernel keeps for us until we accept them; strangers may be among them."""
_TCP_OPTIONS = {
    socket.TCP_NODELAY: 1,
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 6,
    socket.TCP_USER_TIMEOUT: 40_000,
}


class Connection(Protocol):
    """What channels need of a connected, non-blocking socket; with TLS there is more behind it."""

    @property
    def family(self) -> int:
        """The address family."""
        ...

    def fileno(self) -> int:
        """Return the descriptor, for poll."""
        ...

    def getpeername(self) -> Any:
        """Return the address of the other side."""
        ...

    def sendmsg(self, views: list[memoryview], /) -> int:
        """Send the beginning of the views, and return how many bytes. Raises BlockingIOError, or another OSError."""
        ...

    def recvmsg_into(self, views: list[memoryview], /) -> tuple[Any, ...]:
        """Fill the beginning of the views; the first that is returned is the number of bytes. Raises as `sendmsg`."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


@runtime_checkable
class ReadsAhead(Protocol):
    """What a connection has as well that takes more from its socket than it is asked for."""

    @property
    def holds_more(self) -> bool:
        """Whether there may be something to read of which poll knows nothing."""
        ...


def wait_briefly(connection: Connection, events: int) -> bool:
    """Wait up to 50 ms for one of the poll `events` (or an error), and return whether it is there."""
    poll = select.poll()
    poll.register(connection, events)
    return bool(poll.poll(_WAIT_MS))


def connect(address: Address, while_blocked: Callable[[], None]) -> socket.socket:
    """Return a non-blocking connection. Raises ChannelError that says what may be wrong."""
    reason = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, target in _resolve(address, while_blocked):
        try:
            return _connected(family, target, while_blocked)
        except OSError as error:
            reason = error
    raise ChannelError(f"cannot connect to {address}: {reason.strerror}; is it listening there?") from reason


def listen(address: Address, while_blocked: Callable[[], None] = lambda: None) -> socket.socket:
    """Return a listening socket. Raises ChannelError if the address cannot be used."""
    family, target = _resolve(address, while_blocked)[0]
    try:
        with ExitStack() as on_failure:
            listener = on_failure.enter_context(socket.socket(family, socket.SOCK_STREAM))
            if isinstance(address, UnixAddress):
                _bind_unix(listener, address.path)
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(target)
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            on_failure.pop_all()
    except OSError as error:
        raise ChannelError(f"cannot listen at {address}: {error.strerror}") from error
    return listener


def local_address(listener: socket.socket) -> Address:
    """Return where a socket listens, with the port that the kernel has chosen if port 0 was asked for."""
    name = listener.getsockname()
    return UnixAddress(name) if listener.family == socket.AF_UNIX else TcpAddress(name[0], name[1])


def is_beyond_this_host(address: Address) -> bool:
    """Return whether others can reach what listens there; the host of the address is a number."""
    return isinstance(address, TcpAddress) and not ip_address(address.host.partition("%")[0]).is_loopback


def is_within_this_host(connection: Connection) -> bool:
    """Return whether it is a plain unix socket."""
    return isinstance(connection, socket.socket) and connection.family == socket.AF_UNIX


def peer_address(connection: socket.socket, wanted: Address) -> Address:
    """Return where exactly a connection to `wanted`, which may be the name of several hosts, has ended up."""
    if isinstance(wanted, UnixAddress):
        return wanted
    try:
        host, port, *_ = connection.getpeername()
    except OSError as error:
        raise ChannelError(f"the connection to {wanted} is lost: {error.strerror}") from error
    return TcpAddress(host, port)


def describe_peer(connection: Connection) -> str:
    """Return the address at the other end; a process that has connected to a unix socket has none."""
    try:
        name = connection.getpeername()
    except OSError:  # it is gone already
        return "an unknown address"
    return str(TcpAddress(name[0], name[1])) if connection.family != socket.AF_UNIX else name or "this host"


def stop_listening(listener: socket.socket) -> None:
    """Close a listening socket; the path of a unix one goes with it."""
    address = local_address(listener)
    listener.close()
    if isinstance(address, UnixAddress):
        with suppress(OSError):  # somebody has removed it, or may do what we may not
            os.unlink(address.path)


def accept(listener: socket.socket) -> socket.socket | None:
    """Return an incoming connection, non-blocking, or None if none is there. Raises ChannelError."""
    try:
        connection, _ = listener.accept()
    except (BlockingIOError, ConnectionAbortedError):  # none came, or it went away before we got to it
        return None
    except OSError as error:
        raise ChannelError(f"cannot accept a connection: {error.strerror}") from error
    connection.setblocking(False)
    _tune(connection)
    return connection


def _bind_unix(listener: socket.socket, path: str) -> None:
    """Bind to a path that only this user may use, in place of a socket left by a dead process.

    Raises UsageError if something else is at that path, or if a living process listens there.
    """
    _remove_stale(path)
    previous = os.umask(0o777 & ~_UNIX_MODE)  # the socket must never be open to others, not even for a moment
    try:
        listener.bind(path)
    finally:
        os.umask(previous)


def _remove_stale(path: str) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"'{path}' exists and is not a socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a living process may be too busy to accept
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise UsageError(f"another process listens at '{path}'; end it or choose another path")
    os.unlink(path)


def _resolve(address: Address, while_blocked: Callable[[], None]) -> list[tuple[socket.AddressFamily, _Target]]:
    """Return all that an address may mean, best first. A name server that does not answer makes this slow."""
    if isinstance(address, UnixAddress):
        return [(socket.AF_UNIX, address.path)]
    resolution: Future[list[Any]] = Future()
    threading.Thread(target=_look_up, args=(address, resolution), name="resolver", daemon=True).start()
    while not wait([resolution], _WAIT_MS / 1000).done:
        while_blocked()
    try:
        return [(family, target) for family, _, _, _, target in resolution.result()]
    except OSError as error:
        raise ChannelError(f"cannot resolve the host of {address}: {error.strerror}") from error
    except UnicodeError as error:
        raise ChannelError(f"cannot resolve the host of {address}: not a host name") from error


def _look_up(address: TcpAddress, resolution: "Future[list[Any]]") -> None:
    """Ask the resolver, which waits for name servers as long as it likes."""
    try:
        resolution.set_result(
            socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        )
    except Exception as error:
        resolution.set_exception(error)


def _connected(family: socket.AddressFamily, target: _Target, while_blocked: Callable[[], None]) -> socket.socket:
    with ExitStack() as on_failure:
        connection = on_failure.enter_context(socket.socket(family, socket.SOCK_STREAM))
        connection.setblocking(False)
        _tune(connection)
        code = connection.connect_ex(target)
        while code == errno.EAGAIN and family == socket.AF_UNIX:  # the listener's queue is full: nothing to wait for
            time.sleep(_WAIT_MS / 1000)
            while_blocked()
            code = connection.connect_ex(target)
        if code == errno.EINPROGRESS:
            while not wait_briefly(connection, select.POLLOUT):
                while_blocked()
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        on_failure.pop_all()
    return connection


def _tune(connection: socket.socket) -> None:
    """Send at once, and notice within 40 s that the other host is gone without a word.

    The kernel gives unix sockets little room, for which the two sides would have to take turns.
    """
    if connection.family == socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_BUFFER_BYTES)
    else:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _TCP_OPTIONS.items():
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
