"""The channels of one incoming migration, as one: pages come over many connections, all else over the first.

Each page channel has a thread, which lets the kernel write into guest memory. At a barrier all of them and the first
connection wait for each other: what was sent before it is in place then, so no old content overtakes a new one. Each
page channel ends with its own Finish, and the guest's state is looked at when all of them have ended: nothing writes
guest memory after that.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from vmferry.errors import CancelledError, PeerError, VmferryError
from vmferry.transport.stream import StreamChannel
from vmferry.wire.format import PAGE_CHANNEL_FRAMES
from vmferry.wire.messages import Barrier, Finish, Message, Pages, State

_WAIT_S = 0.05


class PageTaker(Protocol):
    """Who finds out whether pages are due."""

    def expect(self, pages: Pages) -> None:
        """Take the names of pages whose bytes come next. Raises VmferryError if they are not due."""
        ...

    def patience(self) -> Callable[[], None]:
        """Return what is to be called while waiting, and raises to end the wait."""
        ...


class MultifdReceiver:
    """Implements `PageChannel` on the first connection of a migration and its page channels."""

    is_wide = True

    def __init__(self, first: StreamChannel, page_channels: Sequence[StreamChannel]) -> None:
        self._first = first
        self._page_channels = page_channels
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._barrier = 0
        """The last one that everybody has reached."""
        self._waiting = 0
        self._open = len(page_channels)
        """How many page channels have not ended."""
        self._trouble: BaseException | None = None
        self._stopping = False
        self._taking = threading.Lock()

    def start(self, taker: PageTaker) -> None:
        """Begin to take pages."""
        for number, channel in enumerate(self._page_channels, 1):
            channel.allow(PAGE_CHANNEL_FRAMES)
            name = f"multifdrecv_{number}"
            self._threads.append(threading.Thread(target=self._run, args=(channel, taker), name=name, daemon=True))
            self._threads[-1].start()

    @property
    def sent_bytes(self) -> int:
        """All bytes put on the wire so far."""
        return self._first.sent_bytes

    @property
    def received_bytes(self) -> int:
        """All bytes taken from the wire so far, over all connections."""
        return sum(channel.received_bytes for channel in (self._first, *self._page_channels))

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        """Send one message, over the first connection."""
        self._first.send(message, while_blocked)

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        """Wait for a message of the first connection. Raises what went wrong on any other."""

        def check() -> None:
            self._raise_trouble()
            while_blocked()

        while True:
            message = self._first.receive(check)
            if isinstance(message, Pages) and (len(message.data) or len(message.zero)):
                raise PeerError("the source sent pages over its first connection, which are due on the others")
            if isinstance(message, State):
                self._wait_for(lambda: not self._open, check)
            if isinstance(message, Barrier):
                self._meet(message, check)
            if not isinstance(message, Barrier) or message.wants_answer:
                return message

    def receive_pages(self, pages: Pages, while_blocked: Callable[[], None]) -> None:
        """Take no bytes: none come over the first connection."""

    def stop_pages(self) -> None:
        """Return when nothing writes guest memory any more."""
        self._stopping = True
        for thread in self._threads:
            thread.join()

    def close(self) -> None:
        """Close all connections."""
        self.stop_pages()
        for channel in (self._first, *self._page_channels):
            channel.close()

    def _run(self, channel: StreamChannel, taker: PageTaker) -> None:
        try:
            self._take_all(channel, taker)
        except BaseException as error:  # also a defect of ours must end the migration
            with self._changed:
                self._trouble = self._trouble or error
        else:
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def _take_all(self, channel: StreamChannel, taker: PageTaker) -> None:
        while not isinstance(message := channel.receive(self._patience(taker)), Finish):
            if isinstance(message, Barrier):
                self._meet(message, self._patience(taker))
            else:
                assert isinstance(message, Pages)
                with self._taking:
                    taker.expect(message)
                channel.receive_pages(message, self._patience(taker))

    def _patience(self, taker: PageTaker) -> Callable[[], None]:
        wait = taker.patience()

        def check() -> None:
            if self._stopping or self._trouble:
                raise CancelledError("the migration has ended")
            wait()

        return check

    def _meet(self, barrier: Barrier, while_blocked: Callable[[], None]) -> None:
        with self._changed:
            if barrier.number != self._barrier + 1:
                raise PeerError(f"the source sent barrier {barrier.number} where {self._barrier + 1} was due")
            self._waiting += 1
            if self._waiting > len(self._page_channels):
                self._barrier, self._waiting = barrier.number, 0
                self._changed.notify_all()
        self._wait_for(lambda: self._barrier >= barrier.number, while_blocked)

    def _wait_for(self, condition: Callable[[], bool], while_blocked: Callable[[], None]) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(condition, _WAIT_S):
                    return
            while_blocked()

    def _raise_trouble(self) -> None:
        if isinstance(self._trouble, VmferryError):
            raise self._trouble
        if self._trouble:
            raise RuntimeError("a page channel's thread has failed") from self._trouble
