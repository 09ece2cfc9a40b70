"""A channel over a stream socket. Without TLS, page bytes go from guest memory to the socket and back without a copy.

The source gives the kernel views of guest memory (`sendmsg`), the destination lets it write straight into
guest memory (`recvmsg_into`). To a process of the same host, over a unix socket, the source lends its pages: then they
are copied once, by the destination, and not into the kernel and out of it. Over TCP lending gains nothing.
"""

import select
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import xxhash

from vmferry.errors import ChannelError, PeerError
from vmferry.memory.delta import apply_delta
from vmferry.memory.layout import GuestLayout
from vmferry.memory.ranges import PageRuns
from vmferry.migration.compression import CompressionFigures
from vmferry.migration.peer import expect
from vmferry.settings.choices import MultiFdCompression
from vmferry.transport.compression import Compression, Packer, unpack
from vmferry.transport.sockets import Connection, ReadsAhead, describe_peer, is_within_this_host, wait_briefly
from vmferry.units import NS_PER_MS
from vmferry.wire.decoder import Decoder
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import ALL_FRAMES, FrameType
from vmferry.wire.messages import Barrier, Message, Pages

_T = TypeVar("_T")

_MAX_VIEWS = 1024
"""The kernel's IOV_MAX."""

_CALL_BACK_NS = 50 * NS_PER_MS
"""With waits of 50 ms, this makes 100 ms at most between two calls of `while_blocked`."""

_LEAST_BATCH_PAGES, _MOST_BATCH_PAGES = 1024, 2048
_BATCH_NS = 5 * NS_PER_MS

_READ_BYTES = 1 << 20
"""How much of a frame is read at once: memory is taken for what a peer has sent, not for what it has announced."""


class PageMemory(Protocol):
    """Guest memory that a channel can reach into."""

    @property
    def layout(self) -> GuestLayout:
        """How many pages of what size there are."""
        ...

    def view(self, first_page: int, page_count: int) -> memoryview:
        """Return a writable view of the bytes of some pages."""
        ...


class Lender(Protocol):
    """Lends pages of guest memory to one socket."""

    def send(self, descriptor: int, views: Sequence[memoryview]) -> int:
        """Lend the beginning of the views, and return how many bytes; what follows must be lent next.

        Raises BlockingIOError if that has to wait, and another OSError.
        """
        ...

    def close(self) -> None:
        """Lend nothing more."""
        ...


@runtime_checkable
class LendsPages(Protocol):
    """Guest memory that can be lent to sockets, too."""

    def lender(self) -> Lender:
        """Return what lends its pages to one socket; the caller closes it. Raises OSError."""
        ...


class StreamChannel:
    """Implements the `Channel` port on a connected, non-blocking stream socket, or one with TLS, which it owns.

    Frames of other types than `allowed` are refused by their header.
    """

    is_wide = False

    def __init__(self, connection: Connection, memory: PageMemory, allowed: Collection[FrameType] = ALL_FRAMES) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self._called_back_ns = time.monotonic_ns()
        self._connection = connection
        self._memory = memory
        self._encoder = Encoder()
        self._decoder = Decoder(memory.layout.page_count, allowed)
        self._compression: Compression | None = None
        self._packer: Packer | None = None
        self._sent_since_flush = False
        self._barrier = 0
        self._lender: Lender | None = None
        self._batch_pages = _LEAST_BATCH_PAGES

    multifd_bytes = unsent_bytes = 0

    @property
    def max_batch_pages(self) -> int:
        """What the connection carries in some milliseconds: each message costs, and each holds the next look up."""
        return _LEAST_BATCH_PAGES if self._packer else self._batch_pages

    @property
    def page_size(self) -> int:
        """Size of the pages that go over it."""
        return self._memory.layout.page_size

    @property
    def peer(self) -> str:
        """The address of the other side, as far as it has one."""
        return describe_peer(self._connection)

    @property
    def holds_more(self) -> bool:
        """Whether there may be something to take of which poll knows nothing."""
        return isinstance(self._connection, ReadsAhead) and self._connection.holds_more

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        """Send one message; pages whose content it does not bring go as they are in guest memory during this call."""
        if isinstance(message, Pages):
            self._send_pages(message, while_blocked)
        else:
            self._send_all([memoryview(self._encoder.encode(message))], while_blocked)

    def compress(self, how: MultiFdCompression, level: int) -> None:
        """Pack the pages that are sent from now on."""
        self.share(Compression(how, level))

    def share(self, compression: Compression) -> None:
        """Pack the pages that are sent from now on, as several channels do."""
        self._compression, self._packer = compression, compression.packer()

    @property
    def compression(self) -> CompressionFigures | None:
        """What packing has done; None if pages go as they are."""
        return self._compression.figures() if self._compression else None

    def barrier(self, while_blocked: Callable[[], None]) -> None:
        """Nothing to do: a stream keeps its order."""

    def flush(self, while_blocked: Callable[[], None]) -> None:
        """Return when all pages that were sent are in place at the other side, which says so.

        The buffers on the way may hold more than a slow link carries within the downtime limit, packed or not.
        """
        if self._sent_since_flush:
            self._sent_since_flush = False
            self._barrier += 1
            self.send(Barrier(self._barrier, wants_answer=True), while_blocked)
            expect_barrier(self._barrier, self.receive(while_blocked))

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        """Wait for a message. If it is Pages, the bytes of those pages come next: see `receive_pages`."""
        message = None
        while message is None:
            buffer = self._wanted()
            message = self._decoder.feed(buffer[: self._receive_some([buffer], while_blocked)])
        return message

    def take(self) -> Message | None:
        """Take what is there without waiting for more. Return the message if that completes it."""
        message = None
        with suppress(BlockingIOError):
            while message is None:
                buffer = self._wanted()
                message = self._decoder.feed(buffer[: self._take_some([buffer])])
        return message

    def receive_pages(self, pages: Pages, while_blocked: Callable[[], None]) -> None:
        """Let the peer write these pages of guest memory, which the message just received names.

        Nothing else writes there. Who expects no pages does not call it, and whoever sends some gets no further.
        """
        views = self._views(pages.data)
        if pages.packed_bytes:
            packed = self._receive_packed(pages, while_blocked)
            if pages.is_delta:
                apply_delta(packed, views, self.page_size)
            else:
                unpack(packed, views)
            return
        missing = views
        while missing:
            missing = _without_first(missing, self._receive_some(missing, while_blocked))
        self._check_payload(pages, views)

    def _receive_packed(self, pages: Pages, while_blocked: Callable[[], None]) -> bytearray:
        """Return packed bytes; memory is taken for what has come."""
        if pages.packed_bytes >= pages.data.page_count * self.page_size:
            raise PeerError(f"the peer sent {pages.packed_bytes} bytes of packed pages, which are fewer as they are")
        packed = bytearray()
        while missing_bytes := pages.packed_bytes - len(packed):
            piece = memoryview(bytearray(min(missing_bytes, _READ_BYTES)))
            packed += piece[: self._receive_some([piece], while_blocked)]
        self._check_payload(pages, [memoryview(packed)])
        return packed

    def _check_payload(self, pages: Pages, payload: list[memoryview]) -> None:
        if pages.final and _checksum(payload) != self._decoder.payload_checksum:
            raise PeerError("the last pages arrived damaged (the checksum differs)")

    def stop_pages(self) -> None:
        """Nothing to do: guest memory is written within `receive_pages` only."""

    def discard(self) -> None:
        """Take what is there, for nothing."""
        with suppress(BlockingIOError):
            self._take_some([memoryview(bytearray(_READ_BYTES))])

    def allow(self, allowed: Collection[FrameType]) -> None:
        """Take frames of these types only, from the next one on."""
        self._decoder.allowed = allowed

    def fileno(self) -> int:
        """Return the socket's descriptor, for poll."""
        return self._connection.fileno()

    def close(self) -> None:
        """Close the socket."""
        self._connection.close()
        if self._lender:
            self._lender.close()

    def _views(self, pages: PageRuns) -> list[memoryview]:
        return [self._memory.view(first, count) for first, count in pages]

    def _send_pages(self, pages: Pages, while_blocked: Callable[[], None]) -> None:
        views = self._views(pages.data) if pages.content is None else [memoryview(pages.content)]
        packer = None if pages.is_delta else self._packer
        packed = packer.pack(views) if packer else None
        payload = views if packed is None else [memoryview(packed)]
        self._sent_since_flush |= bool(len(pages.data) or len(pages.zero))
        checksum = _checksum(payload) if pages.final else 0
        message = replace(pages, packed_bytes=len(packed)) if packed else pages
        frame, start_ns = memoryview(self._encoder.encode(message, checksum)), time.monotonic_ns()
        if payload is views and pages.content is None and self._lends():
            self._send_all([frame], while_blocked)
            self._send_all(views, while_blocked, self._lend_some)
        else:
            self._send_all([frame, *payload], while_blocked)
        self._fit_batches(pages.data.page_count, time.monotonic_ns() - start_ns)
        if packer and len(pages.data):
            packer.sent(pages.data.page_count * self.page_size, sum(len(view) for view in payload))

    def _fit_batches(self, page_count: int, took_ns: int) -> None:
        if page_count >= _LEAST_BATCH_PAGES // 2:
            fitting = page_count * _BATCH_NS // max(1, took_ns)
            self._batch_pages = min(max(_LEAST_BATCH_PAGES, fitting), _MOST_BATCH_PAGES)

    def _lends(self) -> bool:
        """Whether pages are lent, to another process of this host."""
        if self._lender is None and isinstance(self._memory, LendsPages) and is_within_this_host(self._connection):
            with suppress(OSError):
                self._lender = self._memory.lender()
        return self._lender is not None

    def _send_all(
        self,
        views: list[memoryview],
        while_blocked: Callable[[], None],
        send_some: Callable[[list[memoryview]], int] | None = None,
    ) -> None:
        while views:
            sent = self._when_ready(select.POLLOUT, while_blocked, send_some or self._send_some, views)
            self.sent_bytes += sent
            views = _without_first(views, sent)

    def _wanted(self) -> memoryview:
        """Return room for what can be fed to the decoder now."""
        return memoryview(bytearray(min(self._decoder.wanted_bytes, _READ_BYTES)))

    def _receive_some(self, views: list[memoryview], while_blocked: Callable[[], None]) -> int:
        """Wait for bytes, fill the beginning of the views with them, and return how many."""
        return self._when_ready(select.POLLIN, while_blocked, self._take_some, views)

    def _take_some(self, views: list[memoryview]) -> int:
        """Fill the beginning of the views with at least one byte, and return how many. Raises BlockingIOError."""
        received: int = _call(self._connection.recvmsg_into, views[:_MAX_VIEWS])[0]
        if received == 0:
            raise ChannelError("the peer closed the connection before the migration was complete")
        self.received_bytes += received
        return received

    def _send_some(self, views: list[memoryview]) -> int:
        return _call(self._connection.sendmsg, views[:_MAX_VIEWS])

    def _lend_some(self, views: list[memoryview]) -> int:
        assert self._lender
        lend = partial(self._lender.send, self._connection.fileno())
        return _call(lend, views)

    def _when_ready(
        self,
        events: int,
        while_blocked: Callable[[], None],
        call: Callable[[list[memoryview]], int],
        views: list[memoryview],
    ) -> int:
        """Make a call, again until it need not wait."""
        while True:
            self._call_back_if_due(while_blocked)
            try:
                return call(views)
            except BlockingIOError:
                wait_briefly(self._connection, events)

    def _call_back_if_due(self, while_blocked: Callable[[], None]) -> None:
        """A peer that trickles never lets us wait for long, and yet must not keep us from calling back."""
        now_ns = time.monotonic_ns()
        if now_ns - self._called_back_ns >= _CALL_BACK_NS:
            self._called_back_ns = now_ns
            while_blocked()


def expect_barrier(number: int, answer: Message) -> None:
    """Raise PeerError if this does not say that the barrier was met."""
    if expect(Barrier, answer).number != number:
        raise PeerError(f"the destination answered another barrier than {number}")


def _call(call: Callable[[list[memoryview]], _T], views: list[memoryview]) -> _T:
    """Make a system call. Raises BlockingIOError if it would have to wait, and ChannelError."""
    try:
        return call(views)
    except BlockingIOError:
        raise
    except OSError as error:
        raise ChannelError(f"the connection is lost: {error.strerror or error}") from error


def _without_first(views: list[memoryview], size_bytes: int) -> list[memoryview]:
    """Return what is left of the views after their first bytes."""
    for number, view in enumerate(views):
        if size_bytes < len(view):
            return [view[size_bytes:], *views[number + 1 :]]
        size_bytes -= len(view)
    return []


def _checksum(views: list[memoryview]) -> int:
    digest = xxhash.xxh3_64()
    for view in views:
        digest.update(view)
    return digest.intdigest()
