"""Serves an application at a unix socket or a port, in a thread with a loop of its own."""

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

from vmferry.agent.config import port_of
from vmferry.errors import HostError
from vmferry.transport.tls_credentials import load_server

_END_S = 5.0
_MAX_CONNECTIONS = 128
_PATIENCE_S = 20.0
"""How long a client may take until it has asked for something, and to take some of what it is sent."""
_CREDENTIALS = struct.Struct("3i")
"""Process, user and group: `struct ucred` of unix(7)."""


@contextmanager
def serving(
    app: Starlette, address: str, tls_creds: str = "", end: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Serve at an address, a port with TLS if there are credentials; `end` is called before that ends.

    Raises HostError and UsageError if that cannot be.
    """
    is_port = not address.startswith("/")
    tls = load_server(tls_creds) if tls_creds and is_port else None
    config = uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        log_config=None,  # which would be that of all servers of this process
        log_level="critical",
        access_log=False,
        lifespan="off",
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=1,
        server_header=False,
        proxy_headers=False,
        ssl_context_factory=(lambda config, default: tls) if tls else None,
    )
    server = uvicorn.Server(config)
    with listening(address) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, name=f"at {address}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end()
            server.should_exit = True
            thread.join(_END_S)


class _Protocol(H11Protocol):
    """Tells who is at the other end of a unix socket, which has no address. Keeps waiting for no client for long."""

    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, if there is room for it."""
        super().connection_made(transport)
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family == socket.AF_UNIX:
            self.client = (_peer(connection), 0)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what has come; for the rest of a request it is waited from its beginning on."""
        super().data_received(data)
        if self.cycle and not (self.cycle.more_body or self.cycle.response_complete):
            self._wait_no_more()
        elif self._impatience is None:
            self._wait()

    def pause_writing(self) -> None:
        """Wait until the client has taken what it was sent."""
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._wait_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that it is gone."""
        super().connection_lost(exc)
        self._wait_no_more()

    def _wait(self) -> None:
        self._wait_no_more()
        unsent_bytes = self.transport.get_write_buffer_size()
        self._impatience = self.loop.call_later(_PATIENCE_S, self._wait_on, unsent_bytes)

    def _wait_on(self, unsent_bytes: int) -> None:
        """Wait on for a client that has taken something meanwhile, and for no other."""
        if self.transport.get_write_buffer_size() < unsent_bytes:
            self._wait()
        else:
            self.transport.abort()

    def _wait_no_more(self) -> None:
        if self._impatience:
            self._impatience.cancel()
            self._impatience = None


def _peer(connection: socket.socket) -> str:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    process, user, _ = _CREDENTIALS.unpack(data)
    name = str(user)
    with suppress(KeyError):
        name = pwd.getpwuid(user).pw_name
    return f"process {process} of user {name}"


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    """Yield a socket at a path, for its owner only, or at a port. Raises HostError, UsageError."""
    try:
        listener = _listen(address)
    except OSError as error:
        raise HostError(f"cannot serve anything at {address}: {error.strerror}", error.errno) from error
    with listener:
        yield listener
    if address.startswith("/"):
        with suppress(OSError):
            os.unlink(address)


def _listen(address: str) -> socket.socket:
    """Raises OSError."""
    if not address.startswith("/"):
        host, port = port_of(address)
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
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
