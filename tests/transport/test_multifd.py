"""Whole migrations over several real connections, which break, are late, or belong to somebody else."""

import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import secured_client
from tests.support.wide import PAGES, Cuts, WideMigration
from vmferry.errors import ChannelError, PeerError, VmferryError
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Owner
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.parameters import MigrationParameters
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.multifd_receiver import MultifdReceiver
from vmferry.transport.multifd_sender import MultifdSender
from vmferry.transport.sockets import Connection
from vmferry.transport.stream import StreamChannel
from vmferry.transport.uri import UnixAddress
from vmferry.wire.format import DESTINATION_FRAMES, NONCE_BYTES
from vmferry.wire.messages import Barrier, Commit, Finish, Hello, Join, Message, Pages, State

S = MigrationStatus


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_a_guest_arrives_over_any_number_of_channels(tmp_path: Path, channels: int) -> None:
    migration = WideMigration(tmp_path, channels)
    migration.run()
    migration.assert_arrived()
    first, *others = migration.cuts.sent
    assert len(others) == channels
    assert not any(isinstance(message, Pages) for message in first)
    for sent in others:
        assert isinstance(sent[0], Join)
        assert sent[-1] == Finish()
    info = migration.source.info().ram
    assert info
    assert 1000 * 4096 < info.multifd_bytes < info.transferred


@pytest.mark.parametrize("background_sync", ["merge", "preserve"])
def test_a_guest_that_writes_all_the_time_arrives_as_it_was_last(tmp_path: Path, background_sync: str) -> None:
    migration = WideMigration(tmp_path, 4, max_bandwidth=100 << 20, downtime_limit=5, background_sync=background_sync)
    values = iter(range(1, 10**9))
    collect, rounds = migration.here.collect_dirty, 0

    def collect_when_written(bitmap: Bitmap) -> None:
        """However slow the machine is, a sync finds that the guest has written a round."""
        before, deadline = rounds, time.monotonic() + 60
        while migration.here.running and rounds == before:
            assert time.monotonic() < deadline
            time.sleep(0.0005)
        collect(bitmap)

    migration.here.collect_dirty = collect_when_written  # type: ignore[method-assign]

    def barriers(connection: int = 0) -> list[int]:
        return [message.number for message in migration.cuts.sent[connection] if isinstance(message, Barrier)]

    def work() -> None:
        nonlocal rounds
        for page in range(0, 600, 2):
            migration.here.write(page, next(values))
        rounds += 1
        ram = migration.source.info().ram
        if ram and ram.dirty_sync_count > 4:
            migration._parameters = MigrationParameters(max_bandwidth=0, downtime_limit=2000)

    migration.work = work
    migration.run()
    migration.assert_arrived()
    assert barriers() == list(range(len(barriers())))
    assert len(barriers()) > 3
    for connection in range(1, 5):
        assert barriers(connection) == barriers()[1:]


def test_the_limit_holds_over_all_channels_together(tmp_path: Path) -> None:
    limit = 20 << 20
    migration = WideMigration(tmp_path, 4, max_bandwidth=limit, downtime_limit=0)
    start_s = time.monotonic()
    migration.run()
    migration.assert_arrived()
    info = migration.source.info().ram
    assert info
    limited_bytes = info.precopy_bytes - limit // 10  # the last window may just have begun
    assert time.monotonic() - start_s > limited_bytes / limit


def test_a_channel_without_work_says_that_it_is_there(tmp_path: Path) -> None:
    """The source waits before its switchover for longer than the destination waits for a sign of life."""
    migration = WideMigration(tmp_path, 3, stall_timeout=1500)
    migration.source._capabilities = MigrationCapabilities(multifd=True, pause_before_switchover=True)
    waited_until_s: list[float] = []

    def work() -> None:
        if migration.source.status is S.PRE_SWITCHOVER:
            waited_until_s[:] = waited_until_s or [time.monotonic() + 4]
            if time.monotonic() > waited_until_s[0]:
                migration.source.continue_from(S.PRE_SWITCHOVER)

    migration.work = work
    migration.run()
    migration.assert_arrived()


class Relay:
    """Something on the way that takes whatever it is given, and passes it on slowly."""

    def __init__(self, migration: WideMigration, path: Path) -> None:
        self.passed_on_bytes = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._destination = migration.listener.getsockname()
        migration.connector._address = UnixAddress(str(path))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.socket(socket.AF_UNIX)
                there.connect(self._destination)
                threading.Thread(target=self._pass_on, args=(here, there), daemon=True).start()
                threading.Thread(target=self._answer, args=(there, here), daemon=True).start()

    def _pass_on(self, source: socket.socket, destination: socket.socket) -> None:
        with source, destination, suppress(OSError):
            while data := source.recv(1 << 18):
                time.sleep(0.005)
                self.passed_on_bytes += len(data)
                destination.sendall(data)

    def _answer(self, destination: socket.socket, source: socket.socket) -> None:
        with suppress(OSError):
            while data := destination.recv(1 << 12):
                source.sendall(data)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.mark.parametrize(("channels", "how"), [(0, "none"), (0, "zstd"), (3, "none")])
def test_a_guest_is_stopped_when_nothing_is_on_the_way_any_more(tmp_path: Path, channels: int, how: str) -> None:
    migration = WideMigration(tmp_path, channels, multifd_compression=how)
    pause, on_the_way = migration.here.pause, []

    def pause_and_look() -> None:
        channel = migration.source._channel
        assert channel
        on_the_way.append(channel.sent_bytes - relay.passed_on_bytes)
        pause()

    migration.here.pause = pause_and_look  # type: ignore[method-assign]
    with closing(Relay(migration, tmp_path / "relay.sock")) as relay:
        migration.run()
    migration.assert_arrived()
    assert on_the_way == [0]


def broken(path: Path, *, tls: bool, **cuts: Cuts) -> WideMigration | None:
    """Return what became of a migration that was cut; None if it was over before."""
    path.mkdir()
    migration = WideMigration(path, 2, tls=tls)
    migration.cuts, migration.answer_cuts = cuts.get("there", Cuts()), cuts.get("back", Cuts())
    migration.run()
    migration.assert_one_owner()
    if migration.cuts.broke_at or migration.answer_cuts.broke_at:
        return migration
    migration.assert_arrived()
    return None


plain_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@plain_and_tls
@pytest.mark.parametrize("behind", [False, True], ids=["before", "behind"])
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_cut_at_any_message_of_any_channel_leaves_one_owner(
    tmp_path: Path, channel: int, behind: bool, tls: bool
) -> None:
    for number in itertools.count():
        migration = broken(tmp_path / str(number), tls=tls, there=Cuts(channel, number, behind=behind))
        if migration is None:
            break
        message = migration.cuts.broke_at
        may_be_over = isinstance(message, Commit) or (behind and isinstance(message, Finish))
        assert may_be_over or migration.source.owner is Owner.SOURCE, type(message)
    assert number >= (6 if channel == 0 else 2)


@plain_and_tls
@pytest.mark.parametrize("channel", [0, 1, 2])
def test_a_cut_at_any_answer_leaves_one_owner(tmp_path: Path, channel: int, tls: bool) -> None:
    for number in itertools.count():
        if not broken(tmp_path / str(number), tls=tls, back=Cuts(channel, number)):
            break
    assert number >= (5 if channel == 0 else 1), "the others say only that they are let in"


def test_which_channel_broke_is_told(tmp_path: Path) -> None:
    migration = WideMigration(tmp_path, 2)
    migration.cuts = Cuts(2, 2)
    migration.run()
    migration.assert_one_owner()
    told = migration.source.error or ""
    assert told.startswith(("page channel 2: ", "the destination failed: ", "the destination refused: ")), told


@pytest.mark.parametrize("stuck", [0, 1, 2])
def test_a_connection_that_takes_nothing_keeps_no_guest_stopped(tmp_path: Path, stuck: int) -> None:
    migration = WideMigration(tmp_path, 2, switchover_timeout=300)
    numbers = itertools.count()

    class Stuck(StreamChannel):
        def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
            while not migration.here.running:
                while_blocked()
                time.sleep(0.001)
            super().send(message, while_blocked)

    def connected(connection: Connection) -> StreamChannel:
        kind = Stuck if next(numbers) == stuck else StreamChannel
        return kind(connection, migration.here, DESTINATION_FRAMES)

    migration.connector._make_channel = connected  # type: ignore[method-assign]
    migration.run()
    assert migration.source.status is S.FAILED
    assert migration.source.owner is Owner.SOURCE
    assert migration.source.error == "the guest was stopped for 0.3 s and not handed over (switchover-timeout)"
    assert migration.here.running


class Received:
    """The destination's end of a migration, played with by hand."""

    def __init__(self, page_channels: int) -> None:
        self.guest = MemoryGuest(16, running=False)
        self.expected: list[Pages] = []
        ends = [socket.socketpair() for _ in range(page_channels + 1)]
        for end in (end for pair in ends for end in pair):
            end.setblocking(False)
        self.source = MemoryGuest(16)
        self.first, *self.pages = [StreamChannel(far, self.source) for far, _ in ends]
        first, *others = [StreamChannel(near, self.guest) for _, near in ends]
        self.receiver = MultifdReceiver(first, others)
        self.receiver.start(self)

    def expect(self, pages: Pages) -> None:
        self.expected.append(pages)

    def patience(self) -> Callable[[], None]:
        return lambda: None

    def send(self, number: int, page: int, value: int) -> None:
        self.source.write(page, value)
        self.pages[number].send(Pages(PageRuns.of([(page, 1)]), EMPTY), lambda: None)

    def value(self, page: int) -> int:
        return int(self.guest.ram[page, 0])

    def wait_for(self, page: int, value: int) -> None:
        deadline = time.monotonic() + 60
        while self.value(page) != value:
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def receive(self, seconds: float = 20) -> Message:
        deadline = time.monotonic() + seconds

        def give_up() -> None:
            if time.monotonic() > deadline:
                raise TimeoutError

        return self.receiver.receive(give_up)


@pytest.fixture
def received() -> Iterator[Received]:
    received = Received(2)
    with closing(received.receiver):
        yield received
    for channel in (received.first, *received.pages):
        channel.close()


def test_what_is_behind_a_barrier_waits_for_what_is_before_it_on_every_channel(received: Received) -> None:
    def no_wait() -> None:
        pass

    received.pages[1].send(Barrier(1), no_wait)
    received.send(1, 5, 2)
    received.send(0, 6, 1)
    received.wait_for(6, 1)
    with pytest.raises(TimeoutError):
        received.receive(0.2)
    assert received.value(5) == 0, "the new content waits"
    received.send(0, 5, 1)
    received.wait_for(5, 1)
    received.pages[0].send(Barrier(1), no_wait)
    with pytest.raises(TimeoutError):
        received.receive(0.2)
    assert received.value(5) == 1, "the first connection has not reached the barrier"
    received.first.send(Barrier(1), no_wait)
    with pytest.raises(TimeoutError):
        received.receive(0.2)
    received.wait_for(5, 2)


def test_nothing_is_made_of_a_state_before_all_page_channels_have_ended(received: Received) -> None:
    def no_wait() -> None:
        pass

    received.first.send(State(b"registers"), no_wait)
    received.pages[0].send(Finish(), no_wait)
    with pytest.raises(TimeoutError):
        received.receive(0.2)
    received.send(1, 3, 7)
    received.pages[1].send(Finish(), no_wait)


def test_a_state_comes_behind_all_pages(received: Received) -> None:
    for number in (0, 1):
        received.send(number, number, 7)
        received.pages[number].send(Finish(), lambda: None)
    received.first.send(State(b"registers"), lambda: None)
    assert received.receive() == State(b"registers")
    assert received.value(0) == received.value(1) == 7


@pytest.mark.parametrize(
    ("misbehave", "complaint"),
    [
        (lambda it: it.pages[1].send(Barrier(2), lambda: None), "barrier 2 where 1 was due"),
        (lambda it: it.pages[0].send(State(b""), lambda: None), "a STATE frame, which is not due"),
        (lambda it: it.pages[0].send(Hello(it.guest.layout), lambda: None), "a HELLO frame, which is not due"),
        (lambda it: it.first.send(Pages(EMPTY, PageRuns.of([(0, 1)])), lambda: None), "pages over its first"),
        (lambda it: it.pages[1].close(), "the peer closed the connection"),
    ],
)
def test_what_is_wrong_on_any_channel_ends_the_migration(
    received: Received, misbehave: Callable[[Received], None], complaint: str
) -> None:
    misbehave(received)
    with pytest.raises((PeerError, ChannelError), match=complaint):
        received.receive()


def test_a_sender_that_is_closed_sends_nothing() -> None:
    ends = [socket.socketpair() for _ in range(2)]
    for end in (end for pair in ends for end in pair):
        end.setblocking(False)
    guest = MemoryGuest(16)
    first, page_channel = [StreamChannel(near, guest) for near, _ in ends]
    sender = MultifdSender(first, [page_channel])
    sender.close()
    sender.close()
    for message in (Pages(PageRuns.of([(0, 1)]), EMPTY), State(b"")):
        with pytest.raises(ChannelError):
            sender.send(message, lambda: None)
    for _, far in ends:
        far.close()


class Stranger:
    """Somebody who knows where the destination listens, and no more."""

    def __init__(self, migration: WideMigration, join: Join, *, tls: bool = False) -> None:
        """With `tls`, it has a certificate of the lab as well."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(migration.listener.getsockname())
        connection.setblocking(False)
        wrapped = secured_client().wrap(connection, lambda: None) if tls else connection
        self.channel = StreamChannel(wrapped, MemoryGuest(PAGES))
        self.channel.send(join, lambda: None)


@plain_and_tls
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_stranger_does_not_join_and_does_not_disturb(tmp_path: Path, number: int, tls: bool) -> None:
    migration = WideMigration(tmp_path, 2, tls=tls)
    nonce = bytes(range(NONCE_BYTES))
    strangers: list[Stranger] = []
    widen = migration.source._widen
    assert widen

    def widen_among_strangers(*arguments: Any) -> Any:
        claims = [Join(claim, number, bytes(NONCE_BYTES)) for claim in (nonce, bytes(NONCE_BYTES))]
        strangers.extend(Stranger(migration, claim, tls=tls) for claim in claims)
        return widen(*arguments)

    migration.source._widen = widen_among_strangers  # type: ignore[assignment]
    migration.run()
    migration.assert_arrived()
    turned_away = Counter(line.partition(": ")[2] for line in migration.log if "turned a connection away" in line)
    assert turned_away == {
        "it does not belong to the migration that it wants to join": 1,
        "it wants to join a migration that nobody has announced here": 1,
    }
    for stranger in strangers:
        with suppress(VmferryError):
            stranger.channel.receive(lambda: None)
        stranger.channel.close()


@pytest.mark.parametrize("step", ["pause", "save_state", "load_state"])
def test_a_stranger_who_comes_while_a_guest_moves_is_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Not even one who has read the greeting on its way."""
    migration = WideMigration(tmp_path, 2)
    strangers: list[Stranger] = []
    go_on: Callable[..., Any] = getattr(MemoryGuest, step)

    def come_first(*arguments: Any) -> Any:
        if not strangers:
            strangers.append(Stranger(migration, Join(bytes(range(NONCE_BYTES)), 1, bytes(NONCE_BYTES))))
        return go_on(*arguments)

    monkeypatch.setattr(MemoryGuest, step, come_first)
    migration.run()
    migration.assert_arrived()
    [stranger] = strangers
    with closing(stranger.channel), pytest.raises(ChannelError):
        stranger.channel.receive(lambda: None)
