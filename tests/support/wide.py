"""A real source and a real destination with as many real connections between them as are asked for, in threads."""

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.certificates import secured_client, secured_server
from vmferry.clock import MonotonicClock
from vmferry.errors import CancelledError
from vmferry.memory.ranges import PageRuns
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.source import MigrationSource
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Owner
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.parameters import MigrationParameters
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.connector import Connector
from vmferry.transport.sockets import Connection, listen
from vmferry.transport.stream import StreamChannel
from vmferry.transport.uri import UnixAddress
from vmferry.vm.incoming import IncomingMigration, Listener
from vmferry.vm.ports import VmPorts
from vmferry.wire.format import DESTINATION_FRAMES, NONCE_BYTES
from vmferry.wire.messages import Message

PAGES = 3000
S = MigrationStatus


class ArrivingGuest(MemoryGuest):
    """A guest that an incoming migration can prepare memory for."""

    def populator(self) -> "ArrivingGuest":
        return self

    def about_to_fill(self, pages: PageRuns) -> None:
        pass

    def close(self) -> None:
        pass


def cut(connection: Connection) -> None:
    """Break a connection without a word, whatever protects it."""
    with socket.socket(fileno=os.dup(connection.fileno())) as plain:
        plain.shutdown(socket.SHUT_RDWR)


class Cuts:
    """Makes channels of which one breaks at a certain message: before it is sent, or just behind it."""

    def __init__(self, channel: int | None = None, message: int = 0, *, behind: bool = False) -> None:
        self.sent: list[list[Message]] = []
        """What was sent on each channel, in the order in which they were opened."""
        self.broke_at: Message | None = None
        self._channel, self._message, self._behind = channel, message, behind

    def make(self, connection: Connection, *arguments: Any) -> StreamChannel:
        sent: list[Message] = []
        mine = len(self.sent) == self._channel
        self.sent.append(sent)
        cuts = self

        class Cutting(StreamChannel):
            def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
                sent.append(message)
                due = mine and len(sent) - 1 == cuts._message
                cuts.broke_at = message if due else cuts.broke_at
                if due and not cuts._behind:
                    cut(connection)
                super().send(message, while_blocked)
                if due and cuts._behind:
                    cut(connection)

        return Cutting(connection, *arguments)


class WideMigration:
    """A source and a destination with `channels` page channels between them; 0: pages go over the first connection."""

    def __init__(
        self, path: Path, channels: int = 2, *, xbzrle: bool = False, tls: bool = False, **parameters: object
    ) -> None:
        self.here, self.there = MemoryGuest(PAGES), ArrivingGuest(PAGES, running=False)
        for page in range(0, PAGES, 3):
            self.here.write(page, page + 1)
        self.log: list[str] = []
        self.journal = MemoryJournal()
        self.cuts, self.answer_cuts = Cuts(), Cuts()
        self.stopped = threading.Event()
        self.work: Callable[[], None] = lambda: None
        self._address = UnixAddress(str(path / "in.sock"))
        self.listener = listen(self._address)
        self._parameters = MigrationParameters().changed(
            {"max-bandwidth": 0, "multifd-channels": max(1, channels), "stall-timeout": 5000}
            | {name.replace("_", "-"): value for name, value in parameters.items()}
        )
        self._server = secured_server() if tls else None
        self.incoming = IncomingMigration(
            self.there,  # type: ignore[arg-type]
            Listener(self.listener, tls=self._server),
            VmPorts(MonotonicClock(), self.log.append, self._check_stop),
            MemoryJournal(),
            lambda: self._parameters,
            lambda: True,
        )
        self.incoming._open_channel = self._accepted  # type: ignore[method-assign]
        self.connector = connector = Connector(self._address, self.here, secured_client().wrap if tls else None)
        connector._make_channel = self._connected  # type: ignore[method-assign]
        self.source = MigrationSource(
            self.here,
            connector.connect,
            MonotonicClock(),
            self.journal,
            lambda: self._parameters,
            MigrationCapabilities(multifd=channels > 0, xbzrle=xbzrle),
            Credentials(bytes(range(NONCE_BYTES))),
            connector.widen,
        )

    def _connected(self, connection: Connection) -> StreamChannel:
        return self.cuts.make(connection, self.here, DESTINATION_FRAMES)

    def _accepted(self, connection: socket.socket) -> StreamChannel:
        return self.answer_cuts.make(self._server.wrap(connection) if self._server else connection, self.there)

    def run(self) -> MigrationStatus:
        """Migrate while the guest works; on return, nothing of it goes on, and nothing is left of its connections."""
        ended = threading.Event()
        receiver = threading.Thread(target=self._receive)
        worker = threading.Thread(target=self._work, args=(ended,))
        receiver.start()
        worker.start()
        self.source.run()
        ended.set()
        worker.join()
        self._let_destination_end()
        self.stopped.set()
        receiver.join()
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("multifd")]
        return self.source.status

    def _let_destination_end(self) -> None:
        """It is here, or memory is fresh again."""
        deadline = time.monotonic() + 60
        while self.incoming.status is S.ACTIVE:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _work(self, ended: threading.Event) -> None:
        while not ended.is_set():
            with suppress(AssertionError):  # it was stopped meanwhile
                self.work()
            time.sleep(0.001)

    def _receive(self) -> None:
        with suppress(CancelledError):
            self.incoming.run()

    def _check_stop(self) -> None:
        if self.stopped.is_set():
            raise CancelledError

    def assert_arrived(self) -> None:
        assert self.source.error is None
        assert self.source.status is S.COMPLETED
        assert self.there.running
        assert not self.here.running
        assert np.array_equal(self.here.ram, self.there.ram)

    def assert_one_owner(self) -> None:
        assert not (self.here.running and self.there.running)
        assert not self.here.logging
        if self.source.owner is Owner.SOURCE:
            assert self.source.status is S.FAILED
            assert self.here.running
            assert not self.there.ram.any()
        elif self.source.owner is Owner.IN_DOUBT:
            assert self.source.status is S.IN_DOUBT
        else:
            self.assert_arrived()
