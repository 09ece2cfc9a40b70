"""What a destination does with what comes over its channel, and what a source may keep it waiting for; in no time."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from tests.support.loopback import ManualClock, Pair
from vmferry.errors import CancelledError, ChannelError, PeerError
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.receiver import PROGRESS_BYTES, Receiver
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Owner
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.units import PAGE_SIZE_BYTES
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import (
    Accepted,
    Challenge,
    Commit,
    Digest,
    Failed,
    Finish,
    Hello,
    Message,
    Pages,
    Ready,
    State,
    TakenOver,
)

PAGES = 8192
ALL_ZERO = Pages(EMPTY, PageRuns.of([(0, PAGES)]))
SOME_DATA = Pages(PageRuns.of([(3, 2)]), EMPTY)
STEP_NS = 100_000_000
STALL_NS = 60 * 10**9
NS_PER_S = 10**9
CREDENTIALS = Credentials(bytes(NONCE_BYTES))


class ScriptedChannel:
    """A source that sends `script`; between its messages it drips `bytes_per_s`, and after the last one for ever."""

    is_wide = False
    sent_bytes = 0
    max_batch_pages = 16

    def __init__(self, clock: ManualClock, script: list[tuple[int, Message]], bytes_per_s: float = 0) -> None:
        self.sent: list[Message] = []
        self._clock = clock
        self._script: Iterator[tuple[int, Message]] = iter(script)
        self._bytes_per_s = bytes_per_s
        self._start_ns = clock.now_ns()

    @property
    def received_bytes(self) -> int:
        return int((self._clock.now_ns() - self._start_ns) * self._bytes_per_s / NS_PER_S)

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        after_s, message = next(self._script, (10**6, Finish()))
        self._pass(after_s, while_blocked)
        return message

    def receive_pages(self, pages: Pages, while_blocked: Callable[[], None]) -> None:
        size_bytes = pages.data.page_count * PAGE_SIZE_BYTES
        self._pass(size_bytes / self._bytes_per_s if self._bytes_per_s else 0, while_blocked)

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        self.sent.append(message)

    def stop_pages(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _pass(self, seconds: float, while_blocked: Callable[[], None]) -> None:
        for _ in range(int(seconds * NS_PER_S / STEP_NS)):
            self._clock.time_ns += STEP_NS
            while_blocked()


class Incoming:
    """A destination that has accepted a source and received its first pages' names."""

    def __init__(self, *script: tuple[int, Message], bytes_per_s: float = 0, first: Pages = ALL_ZERO) -> None:
        self.clock = ManualClock()
        self.guest = MemoryGuest(PAGES, running=False)
        self.destination = self.fresh_destination()
        challenge = CREDENTIALS.challenge(Hello(self.guest.layout))
        for message in (Hello(self.guest.layout), CREDENTIALS.answer(challenge), first):
            self.destination.handle(message)
        self.channel = ScriptedChannel(self.clock, list(script), bytes_per_s)
        self.check_stop: Callable[[], None] = lambda: None
        self.stall_timeout_ns = STALL_NS
        self.about_to_fill: list[PageRuns] = []
        self._first = first

    def fresh_destination(self) -> MigrationDestination:
        return MigrationDestination(self.guest, self.clock, MemoryJournal(), CREDENTIALS)

    def run(self, *, from_greeting: bool = False) -> None:
        start_ns = self.clock.now_ns()
        try:
            Receiver(
                self.channel,
                self.destination,
                self.clock,
                lambda: self.stall_timeout_ns,
                lambda: self.check_stop(),
                self.about_to_fill.append,
            ).run(None if from_greeting else self._first)
        finally:
            self.elapsed_s = (self.clock.now_ns() - start_ns) / NS_PER_S


def test_a_source_that_goes_on_is_waited_for() -> None:
    pages = [(59, SOME_DATA)] * 20
    incoming = Incoming(*pages, (50, State(b"registers")), (50, Finish()), (50, Commit(run=True)))
    incoming.run()
    assert incoming.channel.sent == [Ready(), TakenOver()]
    assert incoming.destination.in_charge
    assert incoming.guest.running


@pytest.mark.parametrize(
    "script",
    [
        [],
        [(1, ALL_ZERO), (1, Pages(EMPTY, EMPTY))],
        [(1, State(b"registers")), (1, Finish())],
    ],
    ids=["after the first pages", "between pages", "where Commit is due"],
)  # fmt: skip
@pytest.mark.parametrize("bytes_per_s", [0, 1, PROGRESS_BYTES / 61])
def test_silence_and_drops_are_waited_for_60_s(script: list[tuple[int, Message]], bytes_per_s: float) -> None:
    incoming = Incoming(*script, bytes_per_s=bytes_per_s)
    with pytest.raises(ChannelError, match="the source made no progress for 60 s"):
        incoming.run()
    assert 60 < incoming.elapsed_s - sum(after_s for after_s, _ in script) < 60.5
    assert not incoming.guest.running


def test_a_digest_takes_its_time_and_no_more() -> None:
    digest_s = PAGES * PAGE_SIZE_BYTES / (256 << 20)
    state = State(b"registers")
    slow = Incoming((0, state), (60, Digest(MemoryGuest(PAGES).memory_digest())), (0, Finish()), (0, Commit(run=False)))
    slow.run()
    assert slow.destination.in_charge
    silent = Incoming((0, state))
    with pytest.raises(ChannelError, match="no progress"):
        silent.run()
    assert STALL_NS / NS_PER_S + digest_s < silent.elapsed_s < STALL_NS / NS_PER_S + digest_s + 0.5


def test_pages_that_come_slowly_but_steadily_are_taken() -> None:
    slow = PROGRESS_BYTES / 50
    rest: list[tuple[int, Message]] = [(0, State(b"registers")), (0, Finish()), (0, Commit(run=True))]
    incoming = Incoming(*rest, bytes_per_s=slow, first=Pages(PageRuns.of([(0, 512)]), EMPTY))
    incoming.run()
    assert incoming.destination.in_charge
    assert incoming.elapsed_s > 60


@pytest.mark.parametrize("script", [[(61, State(b"registers"))], [(1, State(b"registers")), (61, Finish())]])
def test_a_message_that_drips_is_given_up_however_many_bytes_it_has(script: list[tuple[int, Message]]) -> None:
    incoming = Incoming(*script, bytes_per_s=PROGRESS_BYTES)
    with pytest.raises(ChannelError, match="the source made no progress for 60"):
        incoming.run()
    assert not incoming.guest.running


def test_a_source_is_waited_for_as_long_as_it_takes_if_that_is_asked_for() -> None:
    incoming = Incoming((10_000, State(b"registers")), (10_000, Finish()), (10_000, Commit(run=True)))
    incoming.stall_timeout_ns = 0
    incoming.run()
    assert incoming.destination.in_charge


def test_the_wait_can_be_ended() -> None:
    def stop() -> None:
        raise CancelledError("enough")

    incoming = Incoming()
    incoming.check_stop = stop
    with pytest.raises(CancelledError):
        incoming.run()


def test_a_source_that_breaks_the_protocol_is_told_so_and_nothing_of_it_stays() -> None:
    incoming = Incoming((0, State(b"registers")), (0, State(b"registers")))
    incoming.guest.ram[:] = 1
    with pytest.raises(PeerError, match="sent State where Digest or Finish was due"):
        incoming.run()
    assert incoming.channel.sent == [Failed("the source sent State where Digest or Finish was due")]
    assert incoming.destination.status is MigrationStatus.FAILED
    assert not incoming.guest.ram.any()


def test_a_stranger_is_told_nothing_and_changes_nothing() -> None:
    incoming = Incoming((0, Finish()))
    incoming.destination = incoming.fresh_destination()
    incoming.guest.ram[:] = 1
    with pytest.raises(PeerError, match="sent Finish where Hello was due"):
        incoming.run(from_greeting=True)
    [failed] = incoming.channel.sent
    assert isinstance(failed, Failed)
    assert "its own log says why" in failed.reason
    assert incoming.destination.status is MigrationStatus.SETUP
    assert incoming.guest.ram.all()


def test_a_whole_migration_is_received_from_its_greeting_on() -> None:
    hello = Hello(MemoryGuest(PAGES).layout, bytes(NONCE_BYTES))
    proof = CREDENTIALS.answer(CREDENTIALS.challenge(hello))
    last: list[Message] = [Pages(PageRuns.of([(3, 2)]), EMPTY), State(b"registers"), Finish(), Commit(run=True)]
    incoming = Incoming(*((0, message) for message in [hello, proof, ALL_ZERO, *last]))
    incoming.destination = incoming.fresh_destination()
    incoming.run(from_greeting=True)
    assert incoming.destination.in_charge
    assert incoming.about_to_fill == [PageRuns.of([(3, 2)])]
    assert [type(answer) for answer in incoming.channel.sent] == [Challenge, Accepted, Ready, TakenOver]


@pytest.mark.parametrize("cut_at", [8, 20, -6, -4])
def test_a_source_that_failed_leaves_nothing_behind_for_the_next(cut_at: int) -> None:
    whole, first = Pair(), Pair()
    for page in range(256):
        whole.here.write(page, 7)
        first.here.write(page, 7)
    whole.source.run()
    first.channel.cut_at = cut_at % len(whole.channel.messages)
    filled: list[bool] = []
    first.channel.before_send = lambda message: filled.append(bool(first.there.ram.any()))
    first.source.run()
    assert first.source.owner is Owner.SOURCE
    assert any(filled)
    assert first.destination.status is MigrationStatus.FAILED
    assert not first.there.ram.any()
    second = Pair(there=first.there)
    second.source.run()
    assert second.destination.in_charge
    assert np.array_equal(second.here.ram, second.there.ram)


def test_a_source_names_every_page_that_its_guest_has_touched_and_no_other() -> None:
    pair = Pair()
    pair.source.run()
    named = [message for message in pair.channel.messages if isinstance(message, Pages)]
    pages = np.concatenate([kind.indices() for message in named for kind in (message.data, message.zero)])
    assert set(pages.tolist()) == set(np.flatnonzero(pair.here.ram.any(axis=1)).tolist()) != set(range(256))


def test_a_commit_to_a_destination_that_waited_too_long_leaves_the_guest_to_a_person() -> None:
    pair = Pair()

    def give_up(message: Message) -> None:
        if isinstance(message, Commit):
            pair.destination.fail("the source made no progress for 60 s")
            pair.channel.close()
            raise ChannelError("the connection is lost: Broken pipe")

    pair.channel.before_send = give_up
    pair.source.run()
    assert pair.source.owner is Owner.IN_DOUBT
    assert not pair.here.running
    assert not pair.there.running
    assert not pair.destination.in_charge
    assert "hand-over in doubt" in (pair.source.error or "")
