"""Recorded streams, damaged, at the door of the code that receives them from a socket."""

import socket
from collections import Counter
from contextlib import closing, suppress
from pathlib import Path

import pytest
from bench.fuzz_streams import FRESH_NONCE, WHOLE_MIGRATION, Damage, names

from tests.support.streams import MIGRATIONS, kept
from vmferry.errors import CancelledError, VmferryError
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.receiver import Receiver
from vmferry.transport.sockets import listen
from vmferry.transport.stream import StreamChannel
from vmferry.transport.uri import UnixAddress
from vmferry.vm import reception
from vmferry.vm.reception import Caller, Reception

KEPT = kept()
ROUNDS = 60


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "_WAIT_MS", 0)  # the stream is there already


class Incoming:
    """A destination of the guest of a recorded migration, which gets a stream and then the end of it."""

    def __init__(self, path: Path, name: str, *, nonce: bytes | None = None) -> None:
        self._pair = MIGRATIONS[name]()
        self._path = str(path)
        recorded = self._pair.there_credentials
        self._credentials = Credentials(nonce or recorded.nonce, recorded.token)
        self.guest = self._pair.there

    def take(self, stream: bytes) -> MigrationDestination | None:
        """Return what became of a migration that began, if one did."""
        clock, rounds = self._pair.clock, iter(range(ROUNDS))

        def check_stop() -> None:
            if next(rounds, None) is None:
                raise CancelledError

        door = Reception(listen(UnixAddress(self._path)), clock, self._open, self._destination, lambda text: None)
        with closing(door), socket.socket(socket.AF_UNIX) as source:
            source.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            source.settimeout(10)
            source.connect(self._path)
            source.sendall(stream)
            source.shutdown(socket.SHUT_WR)
            with suppress(CancelledError):
                caller = door.next_source(check_stop)
                self._receive(caller, door)
                return caller.destination
        return None

    def _open(self, connection: socket.socket) -> StreamChannel:
        return StreamChannel(connection, self.guest)

    def _destination(self) -> MigrationDestination:
        return MigrationDestination(self.guest, self._pair.clock, MemoryJournal(), self._credentials)

    def _receive(self, caller: Caller, door: Reception) -> None:
        receiver = Receiver(
            caller.channel, caller.destination, self._pair.clock, lambda: 1, lambda: None, lambda page: None
        )
        try:
            receiver.run(caller.first)
            caller.channel.close()
        except VmferryError:
            door.see_off(caller)


@pytest.mark.parametrize("nonce", [None, FRESH_NONCE], ids=["recorded nonce", "fresh nonce"])
def test_they_do_no_harm(tmp_path: Path, nonce: bytes | None) -> None:
    ends: Counter[str] = Counter()
    for number in range(200):
        damage = Damage(4, number)
        name, other = damage.random.choices(list(MIGRATIONS), k=2)
        stream = damage.done_to(KEPT[name].there, KEPT[other].there)
        if len(stream) > 1 << 18:
            continue  # more than a socket holds
        incoming = Incoming(tmp_path / "in.sock", name, nonce=nonce)
        destination = incoming.take(stream)
        if destination and destination.in_charge:
            assert WHOLE_MIGRATION.match(names(stream)), number
            ends["in charge"] += 1
        else:
            assert not incoming.guest.running, number
            assert not incoming.guest.ram.any(), number
            ends["failed" if destination else "turned away"] += 1
    assert set(ends) == ({"turned away"} if nonce else {"turned away", "failed", "in charge"})
