"""A recorded migration over two connections, one of them damaged, at the door of the code that receives it."""

import re
import socket
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from bench.fuzz_streams import Damage, names

from tests.support.streams import MULTIFD_NONCES, PAGE_COUNT, MultifdStreams, frames, kept_multifd
from tests.support.wide import ArrivingGuest
from vmferry.clock import MonotonicClock
from vmferry.errors import CancelledError
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.settings.parameters import MigrationParameters
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.sockets import listen
from vmferry.transport.uri import UnixAddress
from vmferry.vm import reception
from vmferry.vm.incoming import IncomingMigration, Listener
from vmferry.vm.ports import VmPorts
from vmferry.wire.decoder import Decoder
from vmferry.wire.format import DESTINATION_FRAMES
from vmferry.wire.messages import Accepted, Message

KEPT = kept_multifd()
WHOLE_FIRST = re.compile("HELLO PROOF BARRIER BARRIER (PAGES )*STATE FINISH COMMIT ")
WHOLE_PAGES = re.compile("JOIN (PAGES )*BARRIER (PAGES )*FINISH ")


class Destination:
    """The nonce that the recorded source was answered with is given to the first two that come."""

    def __init__(self, path: str) -> None:
        self.guest = ArrivingGuest(PAGE_COUNT, running=False)
        self.stopped = False
        self.incoming = IncomingMigration(
            self.guest,  # type: ignore[arg-type]
            Listener(listen(UnixAddress(path))),
            VmPorts(MonotonicClock(), lambda text: None, self._check_stop),
            MemoryJournal(),
            lambda: MigrationParameters(stall_timeout=1000),
            lambda: True,
        )
        self.incoming._make_destination = self._make_destination  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _make_destination(self) -> MigrationDestination:
        credentials = Credentials(MULTIFD_NONCES[1])
        return MigrationDestination(self.guest, MonotonicClock(), MemoryJournal(), credentials)

    def _run(self) -> None:
        with suppress(CancelledError):
            self.incoming.run()

    def _check_stop(self) -> None:
        if self.stopped:
            raise CancelledError

    def end(self) -> None:
        self.stopped = True
        self.thread.join()


class Source:
    """Sends streams, whatever they say, and looks only whether it was accepted."""

    def __init__(self, path: str) -> None:
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(10)
        self.connection.connect(path)
        self._decoder = Decoder(PAGE_COUNT, DESTINATION_FRAMES)

    def send(self, stream: bytes) -> None:
        with suppress(OSError):
            self.connection.sendall(stream)

    def wait_until(self, enough: Callable[[Message], bool]) -> None:
        """Return when such an answer is here or the destination has closed the connection."""
        with suppress(OSError):
            while data := self.connection.recv(self._decoder.wanted_bytes):
                if (message := self._decoder.feed(data)) and enough(message):
                    return

    def close(self) -> None:
        self.connection.close()


def give(path: Path, streams: MultifdStreams) -> MemoryGuest:
    """Let a destination receive the streams, and return its guest."""
    address = str(path / "in.sock")
    destination = Destination(address)
    greeting = len(b"".join(frame.encoded(0) for frame in list(frames(KEPT.first))[:2]))
    with closing(Source(address)) as first, closing(Source(address)) as pages:
        first.send(streams.first[:greeting])
        first.connection.settimeout(0.5)  # a damaged greeting may want more to come
        first.wait_until(lambda message: isinstance(message, Accepted))
        pages.send(streams.pages)
        pages.connection.settimeout(0.1)
        pages.wait_until(lambda message: isinstance(message, Accepted))
        first.send(streams.first[greeting:])
        for end in (first, pages):
            with suppress(OSError):
                end.connection.shutdown(socket.SHUT_WR)
        first.connection.settimeout(10)
        first.wait_until(lambda message: False)
    destination.end()
    return destination.guest


def test_undamaged_the_guest_arrives_with_its_newest_pages(tmp_path: Path) -> None:
    guest = give(tmp_path, KEPT)
    assert guest.running
    assert bytes(guest.view(0, 1)) == b"n" * 4096
    assert list(guest.ram[1:, 0]) == list(range(1, PAGE_COUNT))


def test_damaged_they_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "_GREETING_NS", 1_000_000_000)  # for those that are not whole
    ends: Counter[str] = Counter()
    for number in range(30):
        damage = Damage(7, number)
        if number % 2:
            streams = MultifdStreams(KEPT.first, damage.done_to(KEPT.pages, KEPT.first))
        else:
            streams = MultifdStreams(damage.done_to(KEPT.first, KEPT.pages), KEPT.pages)
        if max(len(streams.first), len(streams.pages)) > 1 << 18:
            continue  # more than a socket holds
        (tmp_path / str(number)).mkdir()
        guest = give(tmp_path / str(number), streams)
        if guest.running:
            assert WHOLE_FIRST.match(names(streams.first)), number
            assert WHOLE_PAGES.match(names(streams.pages)), number
            ends["in charge"] += 1
        else:
            assert not guest.ram.any(), number
            ends["turned away, or failed"] += 1
    assert set(ends) == {"in charge", "turned away, or failed"}
