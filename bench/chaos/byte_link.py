"""Both ends of a migration in one thread and in no time, joined by the bytes of the wire, with a fault among them.

The source's engine sends messages; they are encoded as for a socket, pass the line of faults, and are decoded and
obeyed by the destination's engine, whose answers come back the same way.
"""

from collections import deque
from collections.abc import Callable

import xxhash
from tests.support.loopback import Pair

from bench.chaos.faults import AnyFault, Cut, Direction, Freeze, Interrupt, Kill, Party, Reset
from bench.chaos.line import Line, Pause, Step
from vmferry.errors import ChannelError, PeerError, UsageError, VmferryError
from vmferry.memory.delta import apply_delta
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.compression import CompressionFigures
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.ports import MAX_WAIT_NS
from vmferry.settings.choices import MultiFdCompression
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.units import NS_PER_MS, NS_PER_S
from vmferry.wire.decoder import Decoder
from vmferry.wire.encoder import Encoder
from vmferry.wire.messages import Message, Pages

_LONGEST_NS = 300 * NS_PER_S


class SourceKilledError(BaseException):
    """Ends the source's engine as SIGKILL would; what it does to its guest on the way out does not count."""


class OverdueError(BaseException):
    """Ends a migration that does not end."""


class ByteLink:
    """The source's `Channel`. `pair` has both guests, engines and the clock."""

    max_batch_pages = 16

    def __init__(self, pair: Pair, bytes_per_s: int, fault: AnyFault) -> None:
        self.sent_bytes = self.multifd_bytes = self.unsent_bytes = 0
        self.compression: CompressionFigures | None = None
        self.open = True
        self.before_send: Callable[[Message], None] = lambda message: None
        self.destination_is_alive = True
        self.both_ran = False
        self.stopped_ns = 0
        """For so long nobody ran the guest."""
        self._pair = pair
        self._clock = pair.clock
        self._bytes_per_s = bytes_per_s
        self._lines = {direction: Line(fault, direction) for direction in Direction}
        self._encoder = Encoder()
        self._decoder = Decoder(pair.here.layout.page_count)
        self._far_end = FarEnd(pair.destination, pair.there)
        self._inbox: deque[tuple[int, memoryview]] = deque()
        """What has come back, and when."""
        self._back_ns = 0
        """Nothing comes back before."""
        self._called_back_ns = pair.clock.now_ns()

    @property
    def has_fired(self) -> bool:
        """True once the fault has happened."""
        return any(line.has_fired for line in self._lines.values())

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        """Let the time pass that the message takes, with what breaks on the way."""
        self._check_open()
        self.before_send(message)
        data = self._encoded(message)
        self._let_pass(len(data) * NS_PER_S // self._bytes_per_s, while_blocked)
        self.sent_bytes += len(data)
        steps = self._lines[Direction.THERE].steps(data)
        for step in steps:
            match step:
                case memoryview():
                    self._deliver(step)
                case Pause(duration_ms=duration_ms):
                    try:
                        self._let_pass(duration_ms * NS_PER_MS, while_blocked)
                    except VmferryError:  # the source gives up, but what it has sent arrives in the end
                        self._deliver(*(late for late in steps if isinstance(late, memoryview)))
                        raise
                case _:
                    self._suffer(step, while_blocked)
        while_blocked()

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        """Wait for the next answer."""
        message = None
        while message is None:
            if self._inbox and self._inbox[0][0] <= self._clock.now_ns():
                message = self._read()
            else:
                if not self._inbox:
                    self._check_open()
                self._let_pass(MAX_WAIT_NS, while_blocked)
        return message

    def compress(self, how: MultiFdCompression, level: int) -> None:
        raise UsageError("not here")

    def barrier(self, while_blocked: Callable[[], None]) -> None:
        """Nothing to do: bytes keep their order."""

    def flush(self, while_blocked: Callable[[], None]) -> None:
        """Nothing to do: what was sent has arrived."""

    def close(self) -> None:
        """Close the connection at the source's end."""
        self.open = False
        self._far_end.hang_up()

    def _encoded(self, message: Message) -> bytes:
        if not isinstance(message, Pages):
            return self._encoder.encode(message)
        content = message.content
        payload = bytes(content) if content is not None else content_of(self._pair.here, message.data)
        checksum = xxhash.xxh3_64_intdigest(payload) if message.final else 0
        return self._encoder.encode(message, checksum) + payload

    def _read(self) -> Message | None:
        time_ns, data = self._inbox.popleft()
        wanted_bytes = self._decoder.wanted_bytes
        if len(data) > wanted_bytes:
            self._inbox.appendleft((time_ns, data[wanted_bytes:]))
        return self._decoder.feed(data[:wanted_bytes])

    def _deliver(self, *pieces: memoryview) -> None:
        for data in pieces:
            if self.open:
                self._come_back(self._far_end.take(data))
                self.both_ran |= self._pair.here.running and self._pair.there.running

    def _come_back(self, answer: bytes) -> None:
        self._back_ns = max(self._back_ns, self._clock.now_ns())
        for step in self._lines[Direction.BACK].steps(answer) if answer else ():
            match step:
                case memoryview():
                    self._inbox.append((self._back_ns, step))
                case Pause(duration_ms=duration_ms):
                    self._back_ns += duration_ms * NS_PER_MS
                case _:
                    self._suffer(step, lambda: None)
                    if not self.open:
                        return
        if self._far_end.has_closed:
            self.open = False

    def _suffer(self, fault: Step, while_blocked: Callable[[], None]) -> None:
        match fault:
            case Cut(half=True, place=place) if place.direction is Direction.THERE:
                self._come_back(self._far_end.end_of_stream())
            case Cut():
                self.close()
            case Reset():
                self._inbox.clear()
                self.close()
            case Kill(who=Party.SOURCE):
                self.close()
                raise SourceKilledError
            case Kill(who=Party.DESTINATION):
                self.destination_is_alive = False
                self.close()
            case Freeze(who=Party.SOURCE, duration_ms=duration_ms):
                self._clock.time_ns += duration_ms * NS_PER_MS
            case Freeze(who=Party.DESTINATION, duration_ms=duration_ms):
                self._let_pass(duration_ms * NS_PER_MS, while_blocked)
            case Interrupt():
                self._pair.source.cancel()

    def _let_pass(self, duration_ns: int, while_blocked: Callable[[], None]) -> None:
        end_ns = self._clock.now_ns() + duration_ns
        if end_ns > _LONGEST_NS:
            raise OverdueError("the migration has not ended after 300 s")
        while (left_ns := end_ns - self._clock.now_ns()) > 0:
            step_ns = min(left_ns, MAX_WAIT_NS)
            self._clock.time_ns += step_ns
            self.stopped_ns += 0 if self._pair.here.running or self._pair.there.running else step_ns
            if self._clock.now_ns() - self._called_back_ns >= MAX_WAIT_NS:
                self._called_back_ns = self._clock.now_ns()
                while_blocked()

    def _check_open(self) -> None:
        if not self.open:
            raise ChannelError("the connection is closed")


class FarEnd:
    """The destination's end: bytes in, bytes of answers out."""

    def __init__(self, destination: MigrationDestination, guest: MemoryGuest) -> None:
        self.has_closed = False
        self._destination = destination
        self._guest = guest
        self._encoder = Encoder()
        self._decoder = Decoder(guest.layout.page_count)
        self._missing: list[memoryview] = []
        """Room for the bytes that come next."""
        self._pages = Pages(EMPTY, EMPTY)
        """Those that they are of."""
        self._packed = bytearray()
        """Those bytes, if they are a delta."""

    def take(self, data: memoryview) -> bytes:
        """Take bytes and return the answers to them; a source that breaks the protocol is told so and left."""
        answers = b""
        try:
            while data and not self.has_closed:
                taken_bytes, answer = self._take_some(data)
                data = data[taken_bytes:]
                answers += self._encoder.encode(answer) if answer else b""
        except VmferryError as error:
            answers += self._give_up(str(error))
        return answers

    def end_of_stream(self) -> bytes:
        """Take note that the source sends nothing more, and return the last words."""
        return b"" if self.has_closed else self._give_up("the source closed the connection")

    def hang_up(self) -> None:
        """Take note that the connection is gone."""
        self.end_of_stream()

    def _take_some(self, data: memoryview) -> tuple[int, Message | None]:
        if self._missing:
            return self._take_payload(data), None
        taken = data[: self._decoder.wanted_bytes]
        message = self._decoder.feed(taken)
        if message is None:
            return len(taken), None
        answer = self._destination.handle(message)
        if isinstance(message, Pages):
            self._expect_payload(message)
        return len(taken), answer

    def _expect_payload(self, pages: Pages) -> None:
        self._pages, self._packed = pages, bytearray(pages.packed_bytes)
        if pages.packed_bytes and pages.packed_bytes >= pages.data.page_count * self._guest.layout.page_size:
            raise PeerError("a delta is smaller than the pages")
        self._missing = [memoryview(self._packed)] if pages.packed_bytes else self._views(pages.data)

    def _views(self, pages: PageRuns) -> list[memoryview]:
        return [self._guest.view(first, count) for first, count in pages]

    def _take_payload(self, data: memoryview) -> int:
        view = self._missing[0]
        size_bytes = min(len(view), len(data))
        view[:size_bytes] = data[:size_bytes]
        self._missing[0] = view[size_bytes:]
        if size_bytes == len(view):
            del self._missing[0]
            if not self._missing:
                self._check_payload()
                if self._packed:
                    apply_delta(self._packed, self._views(self._pages.data), self._guest.layout.page_size)
        return size_bytes

    def _check_payload(self) -> None:
        if self._pages.final:
            payload = self._packed or content_of(self._guest, self._pages.data)
            if xxhash.xxh3_64_intdigest(payload) != self._decoder.payload_checksum:
                raise PeerError("the last pages arrived damaged (the checksum differs)")

    def _give_up(self, reason: str) -> bytes:
        self.has_closed = True
        if self._destination.in_charge:
            return b""
        answer = self._encoder.encode(self._destination.refusal(reason))
        self._destination.fail(reason)
        return answer


def content_of(guest: MemoryGuest, pages: PageRuns) -> bytes:
    """Return the bytes of some pages."""
    return b"".join(guest.view(first, count) for first, count in pages)
