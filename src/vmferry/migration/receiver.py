"""Receives a migration: messages to the destination, page bytes to guest memory, answers back.

Nothing is waited for without end, unless `stall-timeout` is 0. A message has to be whole within that time, and so has
each good piece of the pages that follow it: single bytes now and then win no time.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from vmferry.errors import ChannelError, VmferryError
from vmferry.memory.ranges import PageRuns
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.peer import Deadline
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_MS, NS_PER_S
from vmferry.wire.messages import Message, Pages

PROGRESS_BYTES = 256 << 10
"""A source that sends this much of its pages is alive; one that waits before its switchover sends an empty message."""
_DIGEST_BYTES_PER_S = 256 << 20
"""A source that works out its digest more slowly than this is given up."""
_REFUSAL_NS = 100 * NS_PER_MS


class PageChannel(Protocol):
    """The destination's end of a channel: messages from the source, some followed by page bytes, and answers to it.

    `while_blocked` and errors are those of the port `Channel`.
    """

    @property
    def is_wide(self) -> bool:
        """Whether it is several connections."""
        ...

    @property
    def received_bytes(self) -> int:
        """All bytes taken from the wire so far."""
        ...

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        """Wait for the source's next message."""
        ...

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        """Send an answer."""
        ...

    def receive_pages(self, pages: Pages, while_blocked: Callable[[], None]) -> None:
        """Let the peer write these pages of guest memory, which the message just received names."""
        ...

    def stop_pages(self) -> None:
        """Return when nothing writes guest memory any more."""
        ...


class Receiver:
    """Takes what comes over one channel, until the guest belongs to `destination`.

    `stall_timeout_ns` tells how long a source may make no progress; 0 is for ever. `check_stop` is called while waiting
    and raises to end it; `about_to_fill` is told which pages come next.
    """

    def __init__(
        self,
        channel: PageChannel,
        destination: MigrationDestination,
        clock: Clock,
        stall_timeout_ns: Callable[[], int],
        check_stop: Callable[[], None],
        about_to_fill: Callable[[PageRuns], None],
    ) -> None:
        self._channel = channel
        self._destination = destination
        self._clock = clock
        self._stall_timeout_ns = stall_timeout_ns
        self._check_stop = check_stop
        self._about_to_fill = about_to_fill

    def run(self, first: Message | None = None) -> None:
        """Receive from the greeting on, or from what follows `first`, which was handled, until the guest is ours.

        Raises VmferryError if it does not become ours: the source was told as much as it may know, and the destination
        has failed.
        """
        try:
            if isinstance(first, Pages):
                self._channel.receive_pages(first, self._progress())
            self._receive()
        except VmferryError as error:
            if not self._destination.in_charge:
                self._give_up(str(error))
            raise

    def _receive(self) -> None:
        while not self._destination.in_charge:
            message = self._channel.receive(self.patience())
            if isinstance(message, Pages):
                self.expect(message)
                self._channel.receive_pages(message, self._progress())
            elif answer := self._destination.handle(message):
                self._answer(answer)

    def expect(self, pages: Pages) -> None:
        """Take the names of pages whose bytes come next, over whichever connection. Raises PeerError."""
        self._destination.handle(pages)
        if len(pages.data):
            self._about_to_fill(pages.data)

    def _answer(self, answer: Message) -> None:
        try:
            self._channel.send(answer, self._in_time())
        except ChannelError:
            # After Commit the guest is ours even if the source never learns it.
            if not self._destination.in_charge:
                raise

    def _give_up(self, reason: str) -> None:
        with suppress(VmferryError):
            at_once = Deadline(self._clock, _REFUSAL_NS, "it does not take its answer")
            self._channel.send(self._destination.refusal(reason), at_once)
        self._channel.stop_pages()
        self._destination.fail(reason)

    def patience(self) -> Callable[[], None]:
        """Return what ends a wait for the next message, which begins now.

        One of several connections may be idle for long: then something has to come over any of them.
        """
        return self._progress() if self._channel.is_wide else self._in_time()

    def _progress(self) -> "_Progress":
        return _Progress(self._channel, self._in_time)

    def _in_time(self) -> Callable[[], None]:
        """Return what ends a wait that begins now."""
        limit_ns = self._stall_timeout_ns()
        if not limit_ns:
            return self._check_stop
        if self._destination.awaits_digest:
            limit_ns += self._destination.memory_bytes * NS_PER_S // _DIGEST_BYTES_PER_S
        text = f"the source made no progress for {limit_ns / NS_PER_S:g} s (stall-timeout)"
        return Deadline(self._clock, limit_ns, text, self._check_stop)


class _Progress:
    """Begins a wait, `in_time`, and once more whenever PROGRESS_BYTES have come."""

    def __init__(self, channel: PageChannel, in_time: Callable[[], Callable[[], None]]) -> None:
        self._channel = channel
        self._in_time = in_time
        self._renew()

    def __call__(self) -> None:
        """Check it."""
        if self._channel.received_bytes - self._received_bytes >= PROGRESS_BYTES:
            self._renew()
        self._check()

    def _renew(self) -> None:
        self._check, self._received_bytes = self._in_time(), self._channel.received_bytes
