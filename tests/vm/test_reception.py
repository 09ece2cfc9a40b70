"""Who knocks at a waiting destination, in one thread: callers act between two rounds of the reception."""

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.loopback import ManualClock
from vmferry.errors import CancelledError
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.status import MigrationStatus
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.sockets import listen
from vmferry.transport.stream import StreamChannel
from vmferry.transport.uri import UnixAddress
from vmferry.vm import reception
from vmferry.vm.reception import MAX_CALLERS, Caller, Reception
from vmferry.wire import format as fmt
from vmferry.wire.decoder import Decoder
from vmferry.wire.encoder import Encoder
from vmferry.wire.messages import Accepted, Challenge, Commit, Failed, Hello, Message, Pages, Proof, State

PAGES = 16
LAYOUT = GuestLayout((RamBlock("pc.ram", PAGES),), 1)
TOKEN = b"known to both sides"
NONCE = b"s" * fmt.NONCE_BYTES
BEGIN = Pages(EMPTY, PageRuns.of([(0, PAGES)]))
NO_NEWS = Failed("this destination does not take this guest; its own log says why")
NS_PER_S = 10**9


class Door:
    """A reception for a small guest; each connection's nonce is its number."""

    def __init__(self, path: str, token: bytes = b"") -> None:
        self.path = path
        self.clock = ManualClock()
        self.guest = MemoryGuest(PAGES, running=False)
        self.log: list[str] = []
        self.knockers: list[Knocker] = []
        self._token = token
        self._count = 0
        listener = listen(UnixAddress(path))
        self.reception = Reception(listener, self.clock, self._open_channel, self._make_destination, self.log.append)

    def _open_channel(self, connection: socket.socket) -> StreamChannel:
        return StreamChannel(connection, self.guest)

    def _make_destination(self) -> MigrationDestination:
        self._count += 1
        credentials = Credentials(self._count.to_bytes(fmt.NONCE_BYTES, "big"), self._token)
        return MigrationDestination(self.guest, self.clock, MemoryJournal(), credentials)

    def work(self, *steps: Callable[[], object], rounds: int = 8) -> Caller | None:
        """Let some rounds pass after each step. Return who has begun a migration."""

        def pause() -> None:
            pass

        script = iter([step for each in steps for step in (each, *[pause] * rounds)])

        def next_step() -> None:
            step = next(script, None)
            if step is None:
                raise CancelledError
            step()

        with suppress(CancelledError):
            caller = self.reception.next_source(next_step)
            caller.channel.close()
            return caller
        return None

    def close(self) -> None:
        for knocker in self.knockers:
            knocker.close()
        self.reception.close()

    def pass_time(self, seconds: float) -> Callable[[], None]:
        def step() -> None:
            self.clock.time_ns += int(seconds * NS_PER_S)

        return step


class Knocker:
    """One connection to a door."""

    def __init__(self, door: Door, token: bytes = b"") -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._socket.connect(door.path)
        door.knockers.append(self)
        self._encoder = Encoder()
        self._decoder = Decoder(PAGES)
        self._credentials = Credentials(NONCE, token)
        self.is_closed = False

    def send(self, *messages: Message) -> Callable[[], None]:
        return lambda: self.send_bytes(b"".join(self._encoder.encode(message) for message in messages))()

    def send_bytes(self, data: bytes) -> Callable[[], None]:
        return lambda: self._socket.sendall(data)

    def answers(self) -> list[Message]:
        """Return what has come so far."""
        messages = []
        with suppress(BlockingIOError):
            while True:
                data = self._socket.recv(self._decoder.wanted_bytes)
                if not data:
                    self.is_closed = True
                    break
                message = self._decoder.feed(data)
                if message:
                    messages.append(message)
        return messages

    def prove(self) -> None:
        """Answer the challenge that has come."""
        [challenge] = self.answers()
        assert isinstance(challenge, Challenge)
        self.send(self._credentials.answer(challenge))()

    def greet(self, layout: GuestLayout = LAYOUT) -> list[Callable[[], None]]:
        return [self.send(Hello(layout, NONCE)), self.prove]

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reception, "_WAIT_MS", 0)  # callers act in this thread: what is to come is there already


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    door = Door(str(tmp_path / "in.sock"))
    yield door
    door.close()


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Door]:
    door = Door(str(tmp_path / "in.sock"), TOKEN)
    yield door
    door.close()


def crowd(door: Door, count: int) -> list[Knocker]:
    """Connect so many, as fast as the door lets them in."""
    knockers: list[Knocker] = []
    while len(knockers) < count:
        door.work(lambda: knockers.extend(Knocker(door) for _ in range(min(100, count - len(knockers)))), rounds=2)
    return knockers


def test_a_source_is_let_in(door: Door) -> None:
    source = Knocker(door)
    caller = door.work(*source.greet(), source.send(BEGIN))
    assert caller
    assert caller.first == BEGIN
    assert caller.destination.status is MigrationStatus.ACTIVE
    assert source.answers() == [Accepted()]


def test_a_source_is_let_in_among_many_who_are_silent(door: Door) -> None:
    silent = crowd(door, MAX_CALLERS - 1)
    source = Knocker(door)
    assert door.work(*source.greet(), source.send(BEGIN))
    assert all(knocker.answers() == [] and knocker.is_closed for knocker in silent)


@pytest.mark.parametrize("proven", [False, True])
def test_who_has_greeted_is_not_pushed_out_by_any_number_of_silent_ones(door: Door, proven: bool) -> None:
    source = Knocker(door)
    door.work(*source.greet()[: 1 + proven])
    later = crowd(door, 3 * MAX_CALLERS)
    assert sum(knocker.answers() == [] and not knocker.is_closed for knocker in later) <= MAX_CALLERS
    rest = [] if proven else [source.prove]
    assert door.work(*rest, source.send(BEGIN))


def test_the_silent_are_sent_away_in_time(door: Door) -> None:
    silent, source = Knocker(door), Knocker(door)
    door.work(*source.greet(), door.pass_time(10.1))
    assert silent.answers() == []
    assert silent.is_closed
    assert door.log == ["turned a connection away before its greeting: it took too long"]
    door.work(door.pass_time(49))
    assert (source.answers(), source.is_closed) == ([Accepted()], False)
    door.work(door.pass_time(2))
    assert (source.answers(), source.is_closed) == ([], True)
    assert door.log[1:] == ["turned a connection away before its first pages: it took too long"]


def test_single_bytes_and_empty_messages_win_no_time(door: Door) -> None:
    slow, idle = Knocker(door), Knocker(door)
    hello = Encoder().encode(Hello(LAYOUT, NONCE))
    door.work(*idle.greet())
    for byte in hello[:11]:
        door.work(slow.send_bytes(bytes([byte])), door.pass_time(1))
    assert slow.answers() == []
    assert slow.is_closed
    for _ in range(60):
        if not idle.is_closed:
            door.work(idle.send(Pages(EMPTY, EMPTY)), door.pass_time(1), rounds=1)
        idle.answers()
    assert idle.is_closed
    assert door.guest.ram.sum() == 0


def test_who_begins_first_is_taken_and_the_others_are_sent_away(door: Door) -> None:
    first, second = Knocker(door), Knocker(door)
    caller = door.work(*first.greet(), *second.greet(), second.send(BEGIN), first.send(BEGIN))
    assert caller
    assert caller.destination.status is MigrationStatus.ACTIVE
    assert first.answers() == [Accepted()]
    assert first.is_closed


LARGER = GuestLayout((RamBlock("pc.ram", PAGES + 1),), 1)
OTHER_VERSION = fmt.IDENTITY.pack(fmt.MAGIC, 1) + bytes(14)


def frame(kind: fmt.FrameType, body: bytes, sequence: int = 0) -> bytes:
    header = fmt.HEADER.pack(kind, 0, 0, len(body), sequence, 0)
    return header[: fmt.CHECKSUMMED_HEADER_BYTES] + fmt.checksum(header, body).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    ("attempt", "logged"),
    [
        (lambda k: [k.send_bytes(b"GET / HTTP/1.1\r\n\r\n")], "before its greeting: the peer sent a frame of unknown"),
        (lambda k: [k.send_bytes(frame(fmt.FrameType.HELLO, OTHER_VERSION))], "wire format 1, this side 2; use equal"),
        (lambda k: [k.send(State(b"x"))], "before its greeting: the peer sent a STATE frame, which is not due"),
        (lambda k: [k.send(BEGIN)], "before its greeting: the source sent Pages where Hello was due"),
        (lambda k: [k.send(Hello(LAYOUT, NONCE)), k.send(BEGIN)], "the source sent Pages where Proof was due"),
        (lambda k: [k.send(Hello(LAYOUT, NONCE)), k.send(Proof(bytes(32)))], "recording"),
        (lambda k: k.greet(LARGER), "before it was accepted: memory size differs: the source has"),
        (lambda k: [*k.greet(), k.send(Commit(True))], "before its first pages: the peer sent a COMMIT frame"),
    ],
)  # fmt: skip
def test_a_stranger_is_told_nothing_whatever_is_wrong(
    door: Door, attempt: Callable[[Knocker], list[Callable[[], None]]], logged: str
) -> None:
    stranger = Knocker(door)
    door.work(*attempt(stranger))
    answers = [answer for answer in stranger.answers() if not isinstance(answer, Challenge | Accepted)]
    assert answers == [NO_NEWS]
    [line] = door.log
    assert logged in line
    door.work(door.pass_time(1.1))
    stranger.answers()
    assert stranger.is_closed


def test_who_knows_the_token_is_let_in_and_told_reasons(guarded: Door) -> None:
    source, larger = Knocker(guarded, TOKEN), Knocker(guarded, TOKEN)
    guarded.work(*larger.greet(LARGER))
    [failed] = larger.answers()
    assert isinstance(failed, Failed)
    assert failed.reason.startswith("memory size differs")
    assert guarded.work(*source.greet(), source.send(BEGIN))


def test_who_does_not_know_the_token_gets_no_further(guarded: Door) -> None:
    stranger = Knocker(guarded)
    guarded.work(stranger.send(Hello(LAYOUT, NONCE)))
    [challenge] = stranger.answers()
    assert isinstance(challenge, Challenge)
    guess = Credentials(challenge.nonce, b"another token").challenge(Hello(LAYOUT, NONCE)).proof
    guarded.work(stranger.send(Proof(guess)), stranger.send(BEGIN))
    assert stranger.answers() == [NO_NEWS]
    assert guarded.log == [
        "turned a connection away before it proved to know the token: the source does not know the token"
    ]


def test_a_source_that_leaves_is_named_by_what_it_did_not_prove(guarded: Door) -> None:
    stranger = Knocker(guarded)
    guarded.work(stranger.send(Hello(LAYOUT, NONCE)), stranger.close)
    [line] = guarded.log
    assert line.startswith("turned a connection away before it proved to know the token: the connection is lost")


@pytest.mark.parametrize("token", [b"", TOKEN])
def test_a_recorded_stream_is_refused(tmp_path: Path, token: bytes) -> None:
    door = Door(str(tmp_path / "in.sock"), token)
    source = Knocker(door, token)
    recorded: list[Message] = [Hello(LAYOUT, NONCE)]
    door.work(source.send(*recorded))
    [challenge] = source.answers()
    assert isinstance(challenge, Challenge)
    recorded += [Credentials(NONCE, token).answer(challenge), BEGIN]
    replayer = Knocker(door)
    assert door.work(replayer.send(*recorded)) is None
    assert replayer.answers()[1:] == [NO_NEWS]
    assert door.work(source.send(*recorded[1:])), "the source itself gets in with the same messages"
    door.close()
