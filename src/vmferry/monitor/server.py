"""Serves QMP to many clients at a time, on a unix socket (mode 0600) or on an explicit TCP address, or to one
client that waits to be called.

A client that does not read its answers is not read from either, and one that falls too far behind
with events is disconnected, so no client can make this process grow.
"""

import asyncio
import concurrent.futures
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from vmferry.errors import ChannelError, MigrationError, UsageError
from vmferry.monitor.session import Session
from vmferry.monitor.tls_stream import TlsStream
from vmferry.monitor.vm_port import MonitoredVm, VmEvent
from vmferry.transport.sockets import connect, describe_peer, is_beyond_this_host, listen, local_address
from vmferry.transport.tls import TlsServer
from vmferry.transport.tls_credentials import Endpoint, load_credentials
from vmferry.transport.uri import TcpAddress, UnixAddress, parse_monitor_uri, parse_uri

MAX_CLIENTS = 64
MAX_UNSENT_BYTES = 1 << 20
"""A client with more than this waiting to be read is disconnected."""

_READ_BYTES = 4096
"""Little at a time: other clients get their turn between two reads."""
_CLOSE_TIMEOUT_S = 1.0
_CALL_TIMEOUT_S = 10.0
_EVERYWHERE = ("", "*")
"""Hosts that stand for every address without saying so."""
_AUTHZ = "tls-authz"


@dataclass(frozen=True)
class MonitorEndpoint:
    """Where the clients of a monitor come from."""

    place: str | int
    """`unix:PATH` or `tcp:HOST:PORT`, or the number of a file descriptor that this process was started with."""
    listens: bool = True
    """Whether clients come to this place, or the only client waits there."""
    pretty: bool = False
    """True if answers are laid out for people to read."""


class _Client:
    """A connected client."""

    def __init__(
        self, session: Session, reader: asyncio.StreamReader | TlsStream, writer: asyncio.StreamWriter | TlsStream
    ) -> None:
        self._session = session
        self._reader = reader
        self._writer = writer

    async def serve(self) -> None:
        """Answer until the client goes away or has to."""
        self._writer.write(self._session.greeting())
        while not self._session.broken and (data := await self._reader.read(_READ_BYTES)):
            for answer in self._session.feed(data):
                self._writer.write(answer if isinstance(answer, bytes) else await _in_thread(answer))
                await self._writer.drain()

    def tell(self, event: VmEvent) -> None:
        """Send an event, if the client has come so far as to get events."""
        if self._session.negotiated and not self._writer.is_closing():
            self._writer.write(self._session.event(event))
            if self._writer.transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
                self._writer.transport.abort()

    async def close(self) -> None:
        """Hang up, when the client has read what is unsent or has had the time to."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._writer.wait_closed()
        except OSError:  # TimeoutError is one, too
            self._writer.transport.abort()


class ServedMonitor:
    """The clients of a VM's monitor; what makes connections is in the subclasses."""

    def __init__(self, vm: MonitoredVm, *, pretty: bool) -> None:
        self._vm = vm
        self._pretty = pretty
        self._clients: dict[_Client, asyncio.Task[None]] = {}

    @property
    def where(self) -> str:
        """Where clients come to, or where the client is."""
        raise NotImplementedError

    async def start(self) -> None:
        """Begin to serve in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._vm.subscribe(self._on_event)

    async def close(self) -> None:
        """Let clients read what they were sent, and hang up on all of them."""
        tasks = list(self._clients.values())
        await asyncio.gather(*(client.close() for client in self._clients))
        if tasks:
            _, waiting = await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT_S)
            for task in waiting:  # for a command that takes long
                task.cancel()
            await asyncio.gather(*waiting)

    async def _serve(self, reader: asyncio.StreamReader | TlsStream, writer: asyncio.StreamWriter | TlsStream) -> None:
        client = _Client(Session(self._vm, pretty=self._pretty), reader, writer)
        try:
            if len(self._clients) < MAX_CLIENTS:
                task = asyncio.current_task()
                assert task
                self._clients[client] = task
                with contextlib.suppress(OSError, asyncio.CancelledError):  # the client is gone, or to be
                    await client.serve()
        finally:
            await client.close()
            self._clients.pop(client, None)

    def _on_event(self, event: VmEvent) -> None:
        """Pass an event on; what a command causes at once is told before its answer, as in QEMU."""
        if self._runs_here():
            self._tell_all(event)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has ended, nobody is there to be told
                self._loop.call_soon_threadsafe(self._tell_all, event)

    def _runs_here(self) -> bool:
        """True in the thread of the event loop."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def _tell_all(self, event: VmEvent) -> None:
        for client in self._clients:
            client.tell(event)


class MonitorServer(ServedMonitor):
    """The monitor of `vm` at `address`, or at a socket that listens already.

    The address is `unix:PATH` or `tcp:HOST:PORT`, the latter with `,tls-creds=DIRECTORY` for TLS, and then with
    `,tls-authz=NAME` for each client that is let in, if not all are. `log` is told of clients that are turned away.
    Listens at once; raises UsageError or ChannelError if that cannot be. Serves after `start`.
    """

    def __init__(
        self,
        vm: MonitoredVm,
        address: str | socket.socket,
        *,
        pretty: bool = False,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(vm, pretty=pretty)
        self._log = log
        self._handshakes = 0
        """Clients with TLS, of whom some may not be served yet."""
        self._path = None
        self._tls: TlsServer | None = None
        if isinstance(address, socket.socket):
            self._listener = address
            return
        told = parse_monitor_uri(address, _AUTHZ)
        parsed = told.address
        if told.tls:
            allowed = frozenset(told.tls.get(_AUTHZ, ()))
            self._tls = TlsServer(load_credentials(told.tls["tls-creds"][-1], Endpoint.SERVER), allowed)
        if isinstance(parsed, TcpAddress) and parsed.host in _EVERYWHERE:
            raise UsageError(f"'{address}' would open the monitor to every network; name the host to listen at")
        self._listener = listen(parsed)
        self._path = parsed.path if isinstance(parsed, UnixAddress) else None

    @property
    def where(self) -> str:
        """The address, with the TCP port that the system chose if it was given as 0."""
        return str(local_address(self._listener))

    @property
    def is_open_to_others(self) -> bool:
        """Whether other hosts may reach it without TLS."""
        return not self._tls and is_beyond_this_host(local_address(self._listener))

    @property
    def port(self) -> int:
        """The TCP port."""
        port: int = self._listener.getsockname()[1]
        return port

    async def start(self) -> None:
        """Begin to serve in the running event loop."""
        await super().start()
        self._server = await asyncio.start_server(self._let_in, sock=self._listener)

    async def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client, if it is to be served."""
        if not self._tls:
            await self._serve(reader, writer)
            return
        if self._handshakes >= MAX_CLIENTS:
            writer.close()
            return
        self._handshakes += 1
        try:
            stream = await TlsStream.open(reader, writer, self._tls)
        except MigrationError as error:
            self._log(f"turned a client of the monitor away: {error}")
            writer.close()
        else:
            await self._serve(stream, stream)
        finally:
            self._handshakes -= 1

    async def close(self) -> None:
        """Stop listening, let clients read what they were sent, and hang up on all of them."""
        self._server.close()
        if self._path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._path)
        await super().close()


class MonitorConnection(ServedMonitor):
    """The monitor of `vm` for the one client at the other end of `connection`. Serves after `start`."""

    def __init__(self, vm: MonitoredVm, connection: socket.socket, *, pretty: bool = False) -> None:
        super().__init__(vm, pretty=pretty)
        self._connection = connection

    @property
    def where(self) -> str:
        """The address of the client."""
        return describe_peer(self._connection)

    async def start(self) -> None:
        """Begin to serve in the running event loop."""
        await super().start()
        reader, writer = await asyncio.open_connection(sock=self._connection)
        self._task = asyncio.create_task(self._serve(reader, writer))


async def _in_thread(work: Callable[[], bytes]) -> bytes:
    """Await the result of work in a thread of its own; unlike an executor's, it does not keep this process from ending.

    There are at most as many as there are clients.
    """
    result: concurrent.futures.Future[bytes] = concurrent.futures.Future()

    def run() -> None:
        result.set_running_or_notify_cancel()
        try:
            result.set_result(work())
        except Exception as error:
            result.set_exception(error)

    threading.Thread(target=run, name="command", daemon=True).start()
    return await asyncio.wrap_future(result)


def open_monitor(
    vm: MonitoredVm, endpoint: MonitorEndpoint, log: Callable[[str], None] = lambda text: None
) -> ServedMonitor:
    """Return the monitor of `vm` at an endpoint. Raises UsageError or ChannelError if that cannot be."""
    place = endpoint.place
    if endpoint.listens:
        address = place if isinstance(place, str) else _inherited(place, listens=True)
        return MonitorServer(vm, address, pretty=endpoint.pretty, log=log)
    connection = _call(place) if isinstance(place, str) else _inherited(place, listens=False)
    return MonitorConnection(vm, connection, pretty=endpoint.pretty)


def _call(address: str) -> socket.socket:
    deadline_s = time.monotonic() + _CALL_TIMEOUT_S

    def check() -> None:
        if time.monotonic() > deadline_s:
            raise ChannelError(f"cannot connect to {address}: no answer in {_CALL_TIMEOUT_S:.0f} s")

    return connect(parse_uri(address), check)


def _inherited(number: int, *, listens: bool) -> socket.socket:
    """Return a socket that this process was started with. Raises UsageError if it is none, or not of this kind."""
    with contextlib.ExitStack() as on_failure, contextlib.suppress(OSError, OverflowError):
        if os.get_inheritable(number):  # what this process has opened itself is not
            inherited = on_failure.enter_context(socket.socket(fileno=number))
            inherited.setblocking(False)
            if inherited.type == socket.SOCK_STREAM and _listens(inherited) == listens:
                on_failure.pop_all()
                return inherited
    kind = "listening" if listens else "connected"
    raise UsageError(f"file descriptor {number} is no {kind} stream socket that this process was started with")


def _listens(inherited: socket.socket) -> bool:
    return bool(inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
