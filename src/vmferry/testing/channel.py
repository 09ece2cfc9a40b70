"""What every implementation of the `Channel` port promises. Subclass, and say how to connect one.

    class TestMyChannel(ChannelContract):
        def connect(self, here, there, destination): ...

A source's end is tested, with a real destination behind it. Where bytes go over a wire, `vmferry.migration.receiver`
receives them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

from vmferry.errors import ChannelError
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.ports import Channel, Clock
from vmferry.migration.status import MigrationStatus
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.units import NS_PER_MS
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import (
    Accepted,
    Challenge,
    Commit,
    Failed,
    Finish,
    Hello,
    Message,
    Pages,
    Ready,
    State,
    TakenOver,
)

PAGES = 3000
MAX_CALLS = 600
"""An answer that takes a minute does not come."""
_CREDENTIALS = Credentials(bytes(NONCE_BYTES))
_GREETING = Hello(MemoryGuest(PAGES).layout, bytes(NONCE_BYTES))


class EnoughError(Exception):
    """Ends a wait."""


def patience(calls: int = MAX_CALLS) -> Callable[[], None]:
    """Return a `while_blocked` that ends the wait when it was called so often."""
    left = iter(range(calls))

    def while_blocked() -> None:
        if next(left, None) is None:
            raise EnoughError

    return while_blocked


class ChannelContract:
    """A source's end of a connection whose other end is a destination.

    What a test opens is put into `resources`, which are closed after it.
    """

    resources: ExitStack

    def connect(self, here: MemoryGuest, there: MemoryGuest, destination: MigrationDestination) -> Channel:
        """Return a channel from `here`, to a receiver that fills `there` and does what `destination` says."""
        raise NotImplementedError

    def clock(self) -> Clock:
        """Return the clock by which the channel's time passes."""
        raise NotImplementedError

    def break_link(self, channel: Channel) -> None:
        """Break the connection, without a word to either end."""
        raise NotImplementedError

    @pytest.fixture(autouse=True)
    def _connected(self) -> Iterator[None]:
        with self.connected():
            yield

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Make the ends that a test works with; pytest does that for each."""
        self.here, self.there = MemoryGuest(PAGES), MemoryGuest(PAGES, running=False)
        self.here.ram[:2000] = np.arange(1, 2001)[:, None]
        with ExitStack() as self.resources:
            self.destination = MigrationDestination(self.there, self.clock(), MemoryJournal(), _CREDENTIALS)
            self.channel = self.connect(self.here, self.there, self.destination)
            self.resources.callback(self.channel.close)
            yield

    def send(self, *messages: Message) -> None:
        """Send one after the other."""
        for message in messages:
            self.channel.send(message, patience())

    def ask(self, message: Message) -> Message:
        """Send a message and return the answer."""
        self.send(message)
        return self.channel.receive(patience())

    def greet(self) -> None:
        """Get accepted."""
        challenge = self.ask(_GREETING)
        assert isinstance(challenge, Challenge)
        assert self.ask(_CREDENTIALS.answer(challenge)) == Accepted()

    def pages(self, *, final: bool = False) -> Iterator[Pages]:
        """Yield all pages of the guest, in messages as large as the channel wants them."""
        most = self.channel.max_batch_pages
        for first in range(0, PAGES, most):
            everything = PageRuns.of([(first, min(most, PAGES - first))])
            data, zero = everything.split(self.here.zero_pages(everything))
            yield Pages(data, zero, final=final)

    def test_a_guest_gets_through(self) -> None:
        assert self.channel.max_batch_pages > 0
        self.greet()
        self.send(*self.pages())
        self.here.write(1234, 77)
        self.send(Pages(PageRuns.of([(1234, 1)]), EMPTY))
        self.here.pause()
        self.send(*self.pages(final=True), State(self.here.save_state()))
        assert self.ask(Finish()) == Ready(verified=False)
        assert self.ask(Commit(run=True)) == TakenOver()
        assert self.destination.in_charge
        assert self.there.running
        assert np.array_equal(self.here.ram, self.there.ram)

    def test_a_page_arrives_as_it_is_when_it_is_sent(self) -> None:
        self.greet()
        runs = PageRuns.of([(5, 3), (100, 1)])
        message = Pages(runs, EMPTY)
        self.here.write(6, 4711)
        self.send(message)
        self.here.write(6, 4712)
        self.send(State(b"registers"))
        assert self.ask(Finish()) == Ready(verified=False)
        assert self.there.ram[6, 0] == 4711
        assert np.array_equal(np.flatnonzero(self.there.ram.any(axis=1)), runs.indices())

    def test_what_is_sent_is_counted(self) -> None:
        counts = [self.channel.sent_bytes]
        assert counts == [0]
        self.greet()
        counts.append(self.channel.sent_bytes)
        self.send(Pages(PageRuns.of([(0, 100)]), PageRuns.of([(2000, 1000)])))
        counts.append(self.channel.sent_bytes)
        self.send(State(bytes(100_000)))
        counts.append(self.channel.sent_bytes)
        greeting, pages, state = np.diff(counts)
        assert 0 < greeting < 4096
        assert 100 * 4096 < pages < 101 * 4096
        assert 100_000 < state < 101_000

    def test_a_wait_for_an_answer_can_be_ended(self) -> None:
        self.greet()
        with pytest.raises(EnoughError):
            self.channel.receive(patience(3))

    def test_a_destination_that_refuses_says_so_and_leaves(self) -> None:
        self.greet()
        self.send(*self.pages())
        answer = self.ask(Finish())
        assert answer == Failed("the source sent Finish where Pages or State or Barrier was due")
        with pytest.raises(ChannelError):
            self.channel.receive(patience())
        self.wait_until_failed()

    @pytest.mark.parametrize("begun", [False, True])
    def test_a_source_that_leaves_leaves_nothing_behind(self, begun: bool) -> None:
        self.greet()
        if begun:
            self.send(*self.pages())
        self.channel.close()
        self.channel.close()
        self.assert_closed()
        if begun:
            self.wait_until_failed()
        assert not self.there.ram.any()

    def test_a_connection_that_breaks_is_noticed(self) -> None:
        self.greet()
        self.break_link(self.channel)
        with pytest.raises(ChannelError):
            self.channel.receive(patience())
        self.assert_closed()

    def assert_closed(self) -> None:
        """Nothing goes through any more; what was on its way may still seem to be sent."""
        with pytest.raises(ChannelError):
            self.send(*self.pages(), *[State(bytes(1 << 20))] * 32)
        with pytest.raises(ChannelError):
            self.channel.receive(patience())

    def wait_until_failed(self) -> None:
        """The destination, which may work beside the test, has made its memory fresh again."""
        for _ in range(MAX_CALLS):
            if self.destination.status is MigrationStatus.FAILED and not self.there.ram.any():
                return
            self.clock().sleep_ns(100 * NS_PER_MS)
        raise AssertionError("the destination did not give up")
