"""The channels of one outgoing migration, as one: pages go over many connections, all else over the first.

Each page channel has a thread, which takes the next pages as soon as it is done with the last ones, so a slow
connection carries less than a fast one. What goes wrong on any of them is raised by the next call that the migration
makes.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from vmferry.errors import CancelledError, ChannelError, VmferryError
from vmferry.migration.compression import CompressionFigures
from vmferry.settings.choices import MultiFdCompression
from vmferry.transport.compression import Compression
from vmferry.transport.stream import StreamChannel, expect_barrier
from vmferry.wire.messages import Barrier, Finish, Message, Pages, State

_WAIT_S = 0.05
_PLACES = 2
"""How many messages each channel has at most: one that is being sent, and the next."""


class MultifdSender:
    """Implements the `Channel` port on the first connection of a migration and its page channels; it owns them all."""

    def __init__(self, first: StreamChannel, page_channels: Sequence[StreamChannel]) -> None:
        self._first = first
        self._changed = threading.Condition()
        self._page_channels = [
            _PageChannel(channel, number, self._changed) for number, channel in enumerate(page_channels, 1)
        ]
        self._compression: Compression | None = None
        self._barrier = 0
        self._closed = False

    @property
    def max_batch_pages(self) -> int:
        """Half of what one connection takes at a time, so that all get something."""
        return min(channel.max_batch_pages for channel in self._page_channels) // 2

    @property
    def sent_bytes(self) -> int:
        """All bytes put on the wire so far, over all connections."""
        return self._first.sent_bytes + self.multifd_bytes

    @property
    def multifd_bytes(self) -> int:
        """How many of them went over page channels."""
        return sum(channel.sent_bytes for channel in self._page_channels)

    @property
    def unsent_bytes(self) -> int:
        """How many bytes of pages wait for their threads, or are being sent.

        Whoever waits for them to become fewer learns here that they cannot: raises what has gone wrong.
        """
        self._raise_trouble()
        return sum(channel.unsent_bytes for channel in self._page_channels)

    def compress(self, how: MultiFdCompression, level: int) -> None:
        """Pack the pages that are sent from now on, in the threads that send them."""
        self._compression = Compression(how, level)
        for channel in self._page_channels:
            channel.share(self._compression)

    @property
    def compression(self) -> CompressionFigures | None:
        """What packing has done, over all page channels; None if pages go as they are."""
        return self._compression.figures() if self._compression else None

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        """Send one message. Pages are handed to the page channel that has most room; an empty one goes everywhere."""
        check = self._watched(while_blocked)
        if isinstance(message, Pages) and (len(message.data) or len(message.zero)):
            self._wait_for(lambda: any(channel.has_room for channel in self._page_channels), check)
            min(self._page_channels, key=lambda channel: channel.unsent_bytes).add(message)
            return
        if isinstance(message, Pages):
            self._tell_all(message, check)
        elif isinstance(message, State):
            self._tell_all(Finish(), check)
        self._first.send(message, check)

    def barrier(self, while_blocked: Callable[[], None]) -> None:
        """Let none of the pages that are sent from now on overtake those that were sent so far.

        The first one begins the migration; the destination waits for the others on all connections.
        """
        self._send_barrier(self._watched(while_blocked), wants_answer=False)

    def _send_barrier(self, check: Callable[[], None], *, wants_answer: bool) -> None:
        if self._barrier:
            self._tell_all(Barrier(self._barrier), check)
        self._first.send(Barrier(self._barrier, wants_answer), check)
        self._barrier += 1

    def flush(self, while_blocked: Callable[[], None]) -> None:
        """Return when all pages that were sent are in place at the other side, which says so."""
        if self._barrier:
            check = self._watched(while_blocked)
            self._send_barrier(check, wants_answer=True)
            expect_barrier(self._barrier - 1, self._first.receive(check))

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        """Wait for a message over the first connection."""
        return self._first.receive(self._watched(while_blocked))

    def close(self) -> None:
        """End all threads and close all connections."""
        self._closed = True
        for channel in self._page_channels:
            channel.end()
        for channel in self._page_channels:
            channel.close()
        self._first.close()

    def _tell_all(self, message: Message, check: Callable[[], None]) -> None:
        for channel in self._page_channels:
            self._wait_for(lambda channel=channel: channel.has_room, check)  # type: ignore[misc]
            channel.add(message)

    def _wait_for(self, condition: Callable[[], bool], check: Callable[[], None]) -> None:
        while True:
            with self._changed:
                if self._changed.wait_for(condition, _WAIT_S):
                    return
            check()

    def _watched(self, while_blocked: Callable[[], None]) -> Callable[[], None]:
        """Return what looks after the page channels, too, and do so now."""

        def check() -> None:
            self._raise_trouble()
            while_blocked()

        self._raise_trouble()
        return check

    def _raise_trouble(self) -> None:
        if self._closed:
            raise ChannelError("the connections are closed")
        for channel in self._page_channels:
            channel.raise_trouble()


class _PageChannel:
    """One connection for pages, and the thread that sends what was added, in order."""

    def __init__(self, channel: StreamChannel, number: int, changed: threading.Condition) -> None:
        self.unsent_bytes = 0
        self._channel = channel
        self._number = number
        self._changed = changed
        self._queue: deque[Message] = deque()
        self._ending = False
        self._trouble: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"multifdsend_{number}", daemon=True)
        self._thread.start()

    @property
    def sent_bytes(self) -> int:
        return self._channel.sent_bytes

    @property
    def max_batch_pages(self) -> int:
        return self._channel.max_batch_pages

    @property
    def has_room(self) -> bool:
        return len(self._queue) < _PLACES

    def share(self, compression: Compression) -> None:
        self._channel.share(compression)

    def add(self, message: Message) -> None:
        with self._changed:
            self._queue.append(message)
            self.unsent_bytes += self._size_bytes(message)
            self._changed.notify_all()

    def raise_trouble(self) -> None:
        """Raise what has gone wrong, once: then the first connection may have more to tell."""
        trouble = self._trouble
        if trouble is None:
            return
        self._trouble = None  # the thread has ended; were it set whatever was there, its last word might be lost
        if isinstance(trouble, VmferryError):
            raise ChannelError(f"page channel {self._number}: {trouble}") from trouble
        raise RuntimeError(f"the thread of page channel {self._number} has failed") from trouble

    def end(self) -> None:
        """Let the thread end, whatever it is doing."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()

    def close(self) -> None:
        self._thread.join()
        self._channel.close()

    def _run(self) -> None:
        try:
            while message := self._next():
                self._channel.send(message, self._check)
                self._remove_first()
        except BaseException as error:  # also a defect of ours must end the migration
            self._trouble = error

    def _next(self) -> Message | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ending)
            return None if self._ending else self._queue[0]

    def _remove_first(self) -> None:
        with self._changed:
            self.unsent_bytes -= self._size_bytes(self._queue.popleft())
            self._changed.notify_all()

    def _check(self) -> None:
        if self._ending:
            raise CancelledError("the migration has ended")

    def _size_bytes(self, message: Message) -> int:
        return message.data.page_count * self._channel.page_size if isinstance(message, Pages) else 0
