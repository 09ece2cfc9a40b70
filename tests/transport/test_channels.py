"""Channels over sockets keep the contract of channels."""

import os
import socket
import ssl
import threading
from contextlib import closing, suppress
from tempfile import TemporaryDirectory

from tests.support.certificates import secured_client, secured_server
from vmferry.clock import MonotonicClock
from vmferry.errors import CancelledError, ChannelError, VmferryError
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.ports import Channel, Clock
from vmferry.migration.receiver import Receiver
from vmferry.testing.channel import ChannelContract, patience
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.sockets import Connection, accept, connect, listen, local_address
from vmferry.transport.stream import StreamChannel
from vmferry.transport.tls_failure import failure
from vmferry.transport.uri import Address, TcpAddress, UnixAddress


class SocketContract(ChannelContract):
    def address(self) -> Address:
        raise NotImplementedError

    def clock(self) -> Clock:
        return MonotonicClock()

    def connect(self, here: MemoryGuest, there: MemoryGuest, destination: MigrationDestination) -> Channel:
        with listen(self.address()) as listener:
            self._near = connect(local_address(listener), patience())
            self._far = accept(listener)
        assert self._far
        self._far_end = self.far_end(self._far)
        channel = StreamChannel(self._far_end, there)
        over = threading.Event()
        thread = threading.Thread(target=receive, args=(channel, destination, over))
        self.resources.callback(thread.join)
        self.resources.callback(over.set)
        thread.start()
        return StreamChannel(self.near_end(self._near), here)

    def near_end(self, connection: socket.socket) -> Connection:
        return connection

    def far_end(self, connection: socket.socket) -> Connection:
        return connection

    def break_link(self, channel: Channel) -> None:
        with socket.socket(fileno=os.dup(self._far_end.fileno())) as far:
            far.shutdown(socket.SHUT_RDWR)


def receive(channel: StreamChannel, destination: MigrationDestination, over: threading.Event) -> None:
    def check_stop() -> None:
        if over.is_set():
            raise CancelledError

    with closing(channel), suppress(VmferryError):
        Receiver(channel, destination, MonotonicClock(), lambda: 0, check_stop, lambda page: None).run()


class TestTcp(SocketContract):
    def address(self) -> Address:
        return TcpAddress("127.0.0.1", 0)


class TestTls(TestTcp):
    def near_end(self, connection: socket.socket) -> Connection:
        return secured_client().wrap(connection, patience())

    def far_end(self, connection: socket.socket) -> Connection:
        return secured_server().wrap(connection)


class TestUnix(SocketContract):
    def address(self) -> Address:
        return UnixAddress(f"{self.resources.enter_context(TemporaryDirectory())}/socket")


def test_a_peer_that_ends_tls_in_order_has_closed_the_connection() -> None:
    assert isinstance(
        failure(ssl.SSLZeroReturnError(6, "TLS/SSL connection has been closed (EOF)"), "it"), ChannelError
    )
