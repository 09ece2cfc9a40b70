"""Channels over sockets keep the contract of channels."""

import socket
import threading
from contextlib import closing, suppress
from tempfile import TemporaryDirectory

from vmferry.clock import MonotonicClock
from vmferry.errors import CancelledError, VmferryError
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.ports import Channel, Clock
from vmferry.migration.receiver import Receiver
from vmferry.testing.channel import ChannelContract, patience
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.sockets import accept, connect, listen, local_address
from vmferry.transport.stream import StreamChannel
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
        channel = StreamChannel(self._far, there)
        over = threading.Event()
        thread = threading.Thread(target=receive, args=(channel, destination, over))
        self.resources.callback(thread.join)
        self.resources.callback(over.set)
        thread.start()
        return StreamChannel(self._near, here)

    def break_link(self, channel: Channel) -> None:
        assert self._far
        self._far.shutdown(socket.SHUT_RDWR)


def receive(channel: StreamChannel, destination: MigrationDestination, over: threading.Event) -> None:
    def check_stop() -> None:
        if over.is_set():
            raise CancelledError

    with closing(channel), suppress(VmferryError):
        Receiver(channel, destination, MonotonicClock(), lambda: 0, check_stop, lambda page: None).run()


class TestTcp(SocketContract):
    def address(self) -> Address:
        return TcpAddress("127.0.0.1", 0)


class TestUnix(SocketContract):
    def address(self) -> Address:
        return UnixAddress(f"{self.resources.enter_context(TemporaryDirectory())}/socket")
