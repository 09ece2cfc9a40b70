"""Opens the connections of an outgoing migration."""

import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from vmferry.migration.peer import expect
from vmferry.migration.ports import Channel
from vmferry.transport.multifd_sender import MultifdSender
from vmferry.transport.sockets import Connection, connect, peer_address
from vmferry.transport.stream import PageMemory, StreamChannel
from vmferry.transport.uri import Address
from vmferry.wire.format import DESTINATION_FRAMES
from vmferry.wire.messages import Accepted, Join


class Connector:
    """Connects to one destination, which may have several addresses: the first one that answers is kept to.

    `secure` makes a protected connection of each plain one, and is given a function to call while it waits.
    """

    def __init__(
        self,
        address: Address,
        memory: PageMemory,
        secure: Callable[[socket.socket, Callable[[], None]], Connection] | None = None,
    ) -> None:
        self._address = address
        self._memory = memory
        self._secure = secure

    def connect(self, while_blocked: Callable[[], None]) -> StreamChannel:
        """Return a channel. Raises ChannelError."""
        connection = connect(self._address, while_blocked)
        self._address = peer_address(connection, self._address)
        return self._make_channel(self._secure(connection, while_blocked) if self._secure else connection)

    def _make_channel(self, connection: Connection) -> StreamChannel:
        return StreamChannel(connection, self._memory, DESTINATION_FRAMES)

    def widen(self, channel: Channel, joins: Sequence[Join], while_blocked: Callable[[], None]) -> Channel:
        """Return the channel with one more for each of `joins` beside it. Raises MigrationError."""
        assert isinstance(channel, StreamChannel)
        with ExitStack() as on_failure:
            joining = []
            for join in joins:
                joining.append(self.connect(while_blocked))
                on_failure.callback(joining[-1].close)
                joining[-1].send(join, while_blocked)
            for one in joining:
                expect(Accepted, one.receive(while_blocked))
            on_failure.pop_all()
        return MultifdSender(channel, joining)
