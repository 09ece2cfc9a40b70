"""Making connections. No call waits longer than 100 ms without calling `while_blocked`, which may raise."""

import errno
import os
import select
import socket
import stat
from collections.abc import Callable

from vmferry.errors import ChannelError, UsageError
from vmferry.transport.uri import Address, TcpAddress, UnixAddress

WAIT_MS = 100
_UNIX_MODE = 0o600


def wait(connection: socket.socket, events: int, while_blocked: Callable[[], None]) -> None:
    """Return when one of the poll `events` (or an error) is there."""
    poll = select.poll()
    poll.register(connection, events)
    while not poll.poll(WAIT_MS):
        while_blocked()


def connect(address: Address, while_blocked: Callable[[], None]) -> socket.socket:
    """Return a non-blocking connection. Raises ChannelError that says what may be wrong."""
    family, target = _resolve(address)
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        _tune(connection)
        _finish_connecting(connection, target, while_blocked)
    except OSError as error:
        connection.close()
        raise ChannelError(
            f"cannot connect to {address}: {os.strerror(error.errno or 0)}; is it listening there?"
        ) from error
    except BaseException:
        connection.close()
        raise
    return connection


def listen(address: Address) -> socket.socket:
    """Return a listening socket. Raises ChannelError if the address cannot be used."""
    family, target = _resolve(address)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if isinstance(address, UnixAddress):
            bind_unix(listener, address.path)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(target)
        listener.listen(1)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ChannelError(f"cannot listen at {address}: {os.strerror(error.errno or 0)}") from error
    except UsageError:
        listener.close()
        raise
    return listener


def accept(listener: socket.socket, while_blocked: Callable[[], None]) -> socket.socket:
    """Return the next incoming connection, non-blocking."""
    while True:
        wait(listener, select.POLLIN, while_blocked)
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            continue  # it went away before we got to it
        connection.setblocking(False)
        _tune(connection)
        return connection


def bind_unix(listener: socket.socket, path: str) -> None:
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
        if probe.connect_ex(path) == 0:
            raise UsageError(f"another process listens at '{path}'; end it or choose another path")
    os.unlink(path)


def _resolve(address: Address) -> tuple[socket.AddressFamily, tuple[object, ...] | str]:
    if isinstance(address, UnixAddress):
        return socket.AF_UNIX, address.path
    assert isinstance(address, TcpAddress)
    try:
        found = socket.getaddrinfo(address.host or None, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise ChannelError(f"cannot resolve the host of {address}: {error.strerror}") from error
    family, _, _, _, target = found[0]
    return family, target


def _finish_connecting(
    connection: socket.socket, target: tuple[object, ...] | str, while_blocked: Callable[[], None]
) -> None:
    code = connection.connect_ex(target)
    if code in (errno.EINPROGRESS, errno.EAGAIN):
        wait(connection, select.POLLOUT, while_blocked)
        code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _tune(connection: socket.socket) -> None:
    if connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
