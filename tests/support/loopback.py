"""A source and a destination in one thread, joined by a channel that can be cut at any message."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from vmferry.errors import ChannelError, UsageError
from vmferry.memory.delta import apply_delta
from vmferry.migration.compression import CompressionFigures
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.ports import Channel
from vmferry.migration.source import MigrationSource
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.choices import MultiFdCompression
from vmferry.settings.parameters import MigrationParameters
from vmferry.testing.memory_guest import WORDS_PER_PAGE, MemoryGuest
from vmferry.units import PAGE_SIZE_BYTES
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import Failed, Message, Pages

MIB = 1 << 20


def payload_bytes(pages: Pages) -> int:
    return pages.packed_bytes or pages.data.page_count * PAGE_SIZE_BYTES


class ManualClock:
    """Time passes only when somebody sleeps or a channel says so."""

    def __init__(self) -> None:
        self.time_ns = 1_000_000_000
        self.on_sleep: Callable[[], None] = lambda: None

    def now_ns(self) -> int:
        return self.time_ns

    def sleep_ns(self, duration_ns: int) -> None:
        self.time_ns += duration_ns
        self.on_sleep()


class LoopbackChannel:
    """Hands every message to the destination at once, at `bytes_per_s` of the clock.

    `cut_at` is the number of the message (in both directions, from 0) at which the connection breaks;
    with `delivered` the receiver still gets that message, only the sender is told otherwise. From the first message of
    the kind `silent_from` on, the destination stands still: it gets nothing and answers nothing. Once `drips` is true
    of a message, the link carries a byte every 7 s, and so never an answer. While `stalls` is set, it carries
    `drip_bytes` per second.
    """

    max_batch_pages = 16

    def __init__(self, pair: "Pair", bytes_per_s: int) -> None:
        self.sent_bytes = self.multifd_bytes = self.unsent_bytes = 0
        self.compression: CompressionFigures | None = None
        self.messages: list[Message] = []
        self.cut_at: int | None = None
        self.delivered = False
        self.silent_from: type[Message] | None = None
        self.open = True
        self.drips: Callable[[Message], bool] = lambda message: False
        self.stalls = False
        self.drip_bytes = 0
        self.on_stalled: Callable[[], None] = lambda: None
        self._silent = self._dripping = False
        self.before_send: Callable[[Message], None] = lambda message: None
        self._pair = pair
        self._bytes_per_s = bytes_per_s
        self._answers: list[Message] = []

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        self._check_open()
        self.before_send(message)
        size_bytes = 64 + (payload_bytes(message) if isinstance(message, Pages) else 0)
        self._dripping = self._dripping or self.drips(message)
        for _ in range(size_bytes if self._dripping else 0):
            self._pair.clock.time_ns += 7 * 10**9
            self.sent_bytes += 1
            while_blocked()
        self._stall(while_blocked)
        self._pair.clock.time_ns += size_bytes * 10**9 // self._bytes_per_s
        self.sent_bytes += size_bytes
        cut = self._is_cut(message)
        self._silent = self._silent or type(message) is self.silent_from
        if (not cut or self.delivered) and not self._silent:
            self._deliver(message)
        if cut:
            self._break()
        while_blocked()

    def _stall(self, while_blocked: Callable[[], None]) -> None:
        for step in itertools.count(1):
            if not self.stalls:
                return
            assert step < 50_000, "nobody gives up"
            self._pair.clock.time_ns += 100_000_000
            self.sent_bytes += 0 if step % 10 else self.drip_bytes
            while_blocked()
            self.on_stalled()

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        while not self._answers:
            self._check_open()
            assert self._silent or self._dripping or self.stalls, "the source waits for an answer that nobody will send"
            self._pair.clock.time_ns += 100_000_000
            while_blocked()
        answer = self._answers.pop(0)
        if self._is_cut(answer):
            self._break()
        return answer

    def compress(self, how: MultiFdCompression, level: int) -> None:
        raise UsageError("not here")

    def barrier(self, while_blocked: Callable[[], None]) -> None:
        pass

    def flush(self, while_blocked: Callable[[], None]) -> None:
        pass

    def close(self) -> None:
        self.open = False

    def _is_cut(self, message: Message) -> bool:
        self.messages.append(message)
        return len(self.messages) - 1 == self.cut_at

    def _deliver(self, message: Message) -> None:
        if isinstance(message, Pages):
            self._fill(message)
        answer = self._pair.destination.respond(message)
        if answer:
            self._answers.append(answer)
        if isinstance(answer, Failed):
            self.open = False

    def _fill(self, message: Pages) -> None:
        pages, here, there = message.data.indices(), self._pair.here, self._pair.there
        if message.content is None:
            there.ram[pages] = here.ram[pages]
        elif message.is_delta:
            views = [there.view(first, count) for first, count in message.data]
            apply_delta(message.content, views, there.layout.page_size)
        else:
            there.ram[pages] = np.frombuffer(message.content, np.uint64).reshape(-1, WORDS_PER_PAGE)

    def _break(self) -> None:
        self.open = False
        self._answers.clear()
        self._pair.destination.fail("the connection broke")
        raise ChannelError("the connection broke")

    def _check_open(self) -> None:
        if not self.open:
            raise ChannelError("the connection is closed")


class Pair:
    """Two guests, here and there, and one migration between them."""

    def __init__(
        self,
        page_count: int = 256,
        *,
        bytes_per_s: int = MIB,
        auto_converge: bool = True,
        pause_before_switchover: bool = False,
        xbzrle: bool = False,
        there: MemoryGuest | None = None,
        make_channel: Callable[["Pair", int], Any] = LoopbackChannel,
        tokens: tuple[bytes, bytes] = (b"", b""),
        **parameters: object,
    ) -> None:
        self.clock = ManualClock()
        self.here = MemoryGuest(page_count)
        for page in range(0, page_count, 2):
            self.here.write(page, page + 1)
        self.there = there or MemoryGuest(page_count, running=False)
        self.journal = MemoryJournal()
        here_credentials, self.there_credentials = (
            Credentials(bytes([number] * NONCE_BYTES), token) for number, token in enumerate(tokens)
        )
        self.destination = MigrationDestination(self.there, self.clock, MemoryJournal(), self.there_credentials)
        self.channel = make_channel(self, bytes_per_s)
        changes = {name.replace("_", "-"): value for name, value in parameters.items()}
        self.parameters = MigrationParameters().changed({"max-bandwidth": 0} | changes)
        self.source = MigrationSource(
            self.here,
            self.open_channel,
            self.clock,
            self.journal,
            lambda: self.parameters,
            MigrationCapabilities(
                auto_converge=auto_converge, pause_before_switchover=pause_before_switchover, xbzrle=xbzrle
            ),
            here_credentials,
        )

    def open_channel(self, while_blocked: Callable[[], None]) -> Channel:
        channel: Channel = self.channel
        return channel

    def events(self, kind: type) -> list[Any]:
        return [entry.event for entry in self.journal.entries if isinstance(entry.event, kind)]


class Writer:
    """A guest that rewrites `page_count` pages round and round, slower when throttled.

    It works whenever the channel is about to send: the worst moment, between the choice of the pages
    and the reading of their content.
    """

    def __init__(self, pair: Pair, page_count: int, pages_per_s: int) -> None:
        self._pair = pair
        self._page_count = page_count
        self._pages_per_s = pages_per_s
        self._last_ns = pair.clock.now_ns()
        self._position = 0
        self._owed = 0.0
        pair.channel.before_send = self.work

    def work(self, message: Message) -> None:
        now_ns = self._pair.clock.now_ns()
        guest = self._pair.here
        self._owed += (now_ns - self._last_ns) / 1e9 * self._pages_per_s * (100 - guest.throttle_percent) / 100
        self._last_ns = now_ns
        if not guest.running:
            self._owed = 0
        while self._owed >= 1:
            self._owed -= 1
            guest.write(self._position % self._page_count, self._position + 1)
            self._position += 1
