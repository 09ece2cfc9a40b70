"""Whole migrations over real sockets through a relay that cuts the connection after any number of bytes, or drips."""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest

from tests.support.certificates import secured_client, secured_server
from vmferry.clock import MonotonicClock
from vmferry.errors import VmferryError
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.receiver import Receiver
from vmferry.migration.source import MigrationSource
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Owner
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.parameters import MigrationParameters
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.stream import StreamChannel
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import Commit

PAGES = 40
CREDENTIALS = Credentials(bytes(NONCE_BYTES))


def relay(source: socket.socket, target: socket.socket, limit_bytes: int | None, drips: bool) -> int:
    """Pass bytes on; after `limit_bytes` of them, close both ends or pass one on every 50 ms. Return how many."""
    passed = 0
    with suppress(OSError):
        while data := source.recv(65536 if limit_bytes is None else max(1, min(65536, limit_bytes - passed))):
            if limit_bytes is not None and passed >= limit_bytes:
                if not drips:
                    break
                time.sleep(0.05)
            target.sendall(data)
            passed += len(data)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
    return passed


def pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair()


class Migration:
    """Source and destination in threads of their own, with the relay between them."""

    def __init__(
        self, cut_forth: int | None = None, cut_back: int | None = None, *, drips: bool = False, tls: bool = False
    ) -> None:
        clock = MonotonicClock()
        self.here, self.there = MemoryGuest(PAGES), MemoryGuest(PAGES, running=False)
        for page in range(0, PAGES, 3):
            self.here.write(page, page + 1)
        self.destination = MigrationDestination(self.there, clock, MemoryJournal(), CREDENTIALS)
        (source_end, relay_here), (relay_there, destination_end) = pair(), pair()
        self._sockets = [source_end, relay_here, relay_there, destination_end]
        for end in (source_end, destination_end):
            end.setblocking(False)
        self._there = StreamChannel(secured_server().wrap(destination_end) if tls else destination_end, self.there)
        self.passed = [0, 0]
        """Bytes on the way there, and back."""

        def open_channel(while_blocked: Callable[[], None]) -> StreamChannel:
            return StreamChannel(secured_client().wrap(source_end, while_blocked) if tls else source_end, self.here)

        self.source = MigrationSource(
            self.here,
            open_channel,
            clock,
            MemoryJournal(),
            lambda: MigrationParameters(switchover_timeout=300 if drips else 10_000),
            MigrationCapabilities(),
            CREDENTIALS,
        )
        threads = [
            threading.Thread(target=self._relay, args=(0, relay_here, relay_there, cut_forth, drips)),
            threading.Thread(target=self._relay, args=(1, relay_there, relay_here, cut_back, drips)),
            threading.Thread(target=self._receive),
        ]
        for thread in threads:
            thread.start()
        self.source.run()
        source_end.close()
        for thread in threads:
            thread.join()
        for end in self._sockets:
            end.close()

    def _relay(self, way: int, *arguments: Any) -> None:
        self.passed[way] = relay(*arguments)

    def _receive(self) -> None:
        with closing(self._there), suppress(VmferryError):
            Receiver(self._there, self.destination, MonotonicClock(), lambda: 0, lambda: None, lambda page: None).run()

    @property
    def sent_bytes(self) -> int:
        info = self.source.info().ram
        assert info
        return info.transferred


def assert_one_owner(migration: Migration) -> None:
    here, there = migration.here, migration.there
    assert not (here.running and there.running)
    assert here.throttle_percent == 0
    assert not here.logging
    if migration.source.owner is Owner.SOURCE:
        assert migration.source.status is MigrationStatus.FAILED
        assert here.running
        assert not migration.destination.in_charge
    else:
        assert migration.source.owner is Owner.IN_DOUBT
        assert migration.source.status is MigrationStatus.IN_DOUBT
        assert not here.running


@pytest.fixture(scope="module")
def whole() -> Migration:
    migration = Migration()
    assert migration.source.status is MigrationStatus.COMPLETED
    assert migration.there.running
    return migration


COMMIT_FRAME_BYTES = 17


def test_commit_is_the_last_frame(whole: Migration) -> None:
    assert len(Encoder().encode(Commit(run=True))) == COMMIT_FRAME_BYTES


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 30, 70, 71, 4000, 20_000, -200, -60, -34, -33, -18])
def test_a_cut_on_the_way_there_before_commit_costs_nothing(whole: Migration, cut: int) -> None:
    migration = Migration(cut_forth=cut if cut >= 0 else whole.sent_bytes + cut)
    assert_one_owner(migration)
    assert migration.source.owner is Owner.SOURCE


@pytest.mark.parametrize("missing", [17, 16, 8, 1])
def test_a_cut_within_commit_leaves_the_guest_paused(whole: Migration, missing: int) -> None:
    migration = Migration(cut_forth=whole.sent_bytes - missing)
    assert_one_owner(migration)
    assert not migration.there.running


@pytest.mark.parametrize("cut", [0, 1, 15, 16, 47, 48, 49, 63, 64, 79])
def test_a_cut_on_the_way_back_before_ready_costs_nothing(whole: Migration, cut: int) -> None:
    migration = Migration(cut_back=cut)
    assert_one_owner(migration)
    assert migration.source.owner is Owner.SOURCE


@pytest.mark.parametrize("cut", [80, 81, 95])
def test_a_cut_within_the_answer_to_commit_leaves_one_running_guest(whole: Migration, cut: int) -> None:
    migration = Migration(cut_back=cut)
    assert_one_owner(migration)
    if migration.source.owner is Owner.IN_DOUBT:
        assert "hand-over in doubt" in (migration.source.error or "")


@pytest.mark.parametrize(("forth", "back"), [(-33, None), (-60, None), (None, 16), (None, 17)])
def test_a_link_that_drips_before_commit_costs_nothing(whole: Migration, forth: int | None, back: int | None) -> None:
    migration = Migration(cut_forth=forth and whole.sent_bytes + forth, cut_back=back, drips=True)
    assert_one_owner(migration)
    assert migration.source.owner is Owner.SOURCE
    assert migration.source.error == "the guest was stopped for 0.3 s and not handed over (switchover-timeout)"


@pytest.fixture(scope="module")
def secured() -> Migration:
    migration = Migration(tls=True)
    assert migration.source.status is MigrationStatus.COMPLETED
    assert migration.there.running
    return migration


RECORD_BYTES = 22
"""What TLS adds to what is sent at once: a header, the kind, and a tag."""
COMMIT_RECORD_BYTES = COMMIT_FRAME_BYTES + RECORD_BYTES
SPREAD_BYTES = 8
"""A handshake has signatures, of which some are shorter than others."""
FIRST = [0, 1, 5, 6, 300, 1500, 2000, 4000, 20_000]


@pytest.mark.parametrize("cut", [*FIRST, -300, -COMMIT_RECORD_BYTES - 40, -COMMIT_RECORD_BYTES - SPREAD_BYTES])
def test_a_cut_of_tls_on_the_way_there_before_commit_costs_nothing(secured: Migration, cut: int) -> None:
    migration = Migration(cut_forth=cut if cut >= 0 else secured.passed[0] + cut, tls=True)
    assert_one_owner(migration)
    assert migration.source.owner is Owner.SOURCE


@pytest.mark.parametrize("missing", [COMMIT_RECORD_BYTES - SPREAD_BYTES, COMMIT_RECORD_BYTES // 2, SPREAD_BYTES])
def test_a_cut_of_tls_within_commit_leaves_the_guest_paused(secured: Migration, missing: int) -> None:
    migration = Migration(cut_forth=secured.passed[0] - missing, tls=True)
    assert_one_owner(migration)
    assert migration.source.owner is Owner.IN_DOUBT
    assert not migration.there.running


@pytest.mark.parametrize("cut", [0, 1, 5, 200, 800, -100, -79 - SPREAD_BYTES])
def test_a_cut_of_tls_on_the_way_back_before_ready_costs_nothing(secured: Migration, cut: int) -> None:
    migration = Migration(cut_back=cut if cut >= 0 else secured.passed[1] + cut, tls=True)
    assert_one_owner(migration)
    assert migration.source.owner is Owner.SOURCE


@pytest.mark.parametrize(("forth", "back"), [(-60 - SPREAD_BYTES, None), (None, -70)])
def test_tls_that_drips_before_commit_costs_nothing(secured: Migration, forth: int | None, back: int | None) -> None:
    migration = Migration(forth and secured.passed[0] + forth, back and secured.passed[1] + back, drips=True, tls=True)
    assert_one_owner(migration)
    assert migration.source.owner is Owner.SOURCE
    assert migration.source.error == "the guest was stopped for 0.3 s and not handed over (switchover-timeout)"
