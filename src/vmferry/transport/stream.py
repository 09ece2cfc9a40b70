"""A channel over a stream socket. Page bytes go from guest memory to the socket and back without a copy.

The source gives the kernel views of guest memory (`sendmsg`), the destination lets it write straight into
guest memory (`recv_into`).
"""

import select
import socket
from collections.abc import Callable
from typing import Protocol

import xxhash

from vmferry.errors import ChannelError, PeerError
from vmferry.memory.layout import GuestLayout
from vmferry.memory.ranges import PageRuns
from vmferry.transport.sockets import wait
from vmferry.wire.decoder import Decoder
from vmferry.wire.encoder import Encoder
from vmferry.wire.messages import Message, Pages

_MAX_VIEWS = 1024
"""The kernel's IOV_MAX."""

_READ_BYTES = 1 << 20
"""Read at once of a frame; a peer that announces more must also send it before memory is taken for it."""


class PageMemory(Protocol):
    """Guest memory that a channel can reach into."""

    @property
    def layout(self) -> GuestLayout:
        """How many pages of what size there are."""
        ...

    def view(self, first_page: int, page_count: int) -> memoryview:
        """Return a writable view of the bytes of some pages."""
        ...


class StreamChannel:
    """Implements the `Channel` port on a connected, non-blocking stream socket, which it owns."""

    max_batch_pages = 1024

    def __init__(self, connection: socket.socket, memory: PageMemory) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0
        self._socket = connection
        self._memory = memory
        self._encoder = Encoder()
        self._decoder = Decoder(memory.layout.page_count)

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        """Send one message, with the pages it names as they are in guest memory during this call."""
        views = self._views(message.data) if isinstance(message, Pages) else []
        checksum = _checksum(views) if isinstance(message, Pages) and message.final else 0
        frame = memoryview(self._encoder.encode(message, checksum))
        self._send_all([frame, *views], while_blocked)

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        """Wait for a message; the bytes of the pages it names are in guest memory on return."""
        message = None
        while message is None:
            buffer = memoryview(bytearray(min(self._decoder.wanted_bytes, _READ_BYTES)))
            message = self._decoder.feed(buffer[: self._receive_some(buffer, while_blocked)])
        if isinstance(message, Pages):
            self._receive_pages(message, while_blocked)
        return message

    def _receive_pages(self, pages: Pages, while_blocked: Callable[[], None]) -> None:
        views = self._views(pages.data)
        for view in views:
            self._receive_all(view, while_blocked)
        if pages.final and _checksum(views) != self._decoder.payload_checksum:
            raise PeerError("the last pages arrived damaged (the checksum differs)")

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _views(self, pages: PageRuns) -> list[memoryview]:
        return [self._memory.view(first, count) for first, count in pages]

    def _send_all(self, views: list[memoryview], while_blocked: Callable[[], None]) -> None:
        while views:
            try:
                sent = self._socket.sendmsg(views[:_MAX_VIEWS])
            except BlockingIOError:
                wait(self._socket, select.POLLOUT, while_blocked)
                continue
            except OSError as error:
                raise _lost(error) from error
            self.sent_bytes += sent
            views = _without_first(views, sent)

    def _receive_all(self, view: memoryview, while_blocked: Callable[[], None]) -> None:
        while view:
            view = view[self._receive_some(view, while_blocked) :]

    def _receive_some(self, view: memoryview, while_blocked: Callable[[], None]) -> int:
        """Fill the beginning of `view` with at least one byte and return how many."""
        while True:
            try:
                received = self._socket.recv_into(view)
            except BlockingIOError:
                wait(self._socket, select.POLLIN, while_blocked)
                continue
            except OSError as error:
                raise _lost(error) from error
            if received == 0:
                raise ChannelError("the peer closed the connection before the migration was complete")
            self.received_bytes += received
            return received


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


def _lost(error: OSError) -> ChannelError:
    return ChannelError(f"the connection is lost: {error.strerror or error}")
