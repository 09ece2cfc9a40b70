"""Serves an application at a unix socket or a port of loopback, in a thread with a loop of its own."""

import asyncio
import errno
import os
import pwd
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from vmferry.agent.config import loopback_port
from vmferry.errors import HostError

_END_S = 5.0
_MAX_CONNECTIONS = 128
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group: `struct ucred` of unix(7)."""


@contextmanager
def shown(app: Starlette, listener: socket.socket, end: Callable[[], None]) -> Iterator[None]:
    """Serve at a socket that listens; `end` is called before that ends."""
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        log_level="critical",
        access_log=False,
        lifespan="off",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
        server_header=False,
        proxy_headers=False,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name="page", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end()
        server.should_exit = True
        thread.join(_END_S)


class _Protocol(H11Protocol):
    """Tells who is at the other end of a unix socket, which has no address."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_UNIX:
            self.client = (_peer(connection), 0)


def _peer(connection: socket.socket) -> str:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(data)
    name = str(user)
    with suppress(KeyError):
        name = pwd.getpwuid(user).pw_name
    return f"process {process} of user {name}"


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """Yield a socket at a path, for its owner only, or at a port of loopback. Raises HostError, UsageError."""
    try:
        listener = _listen(address)
    except OSError as error:
        raise HostError(f"cannot serve the page at {address}: {error.strerror}", error.errno) from error
    with listener:
        yield listener
    if address.startswith("/"):
        with suppress(OSError):
            os.unlink(address)


def _listen(address: str) -> socket.socket:
    """Raises OSError."""
    if not address.startswith("/"):
        return socket.create_server(loopback_port(address))
    listener = socket.socket(socket.AF_UNIX)
    with socket.socket(socket.AF_UNIX) as probe, suppress(FileNotFoundError):
        probe.settimeout(_END_S)  # whoever listens there may have no room
        if probe.connect_ex(address) == errno.ECONNREFUSED:  # what an agent has left that was killed
            os.unlink(address)
    before = os.umask(0o177)
    try:
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
