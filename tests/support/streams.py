"""Recorded migration streams, kept for fuzzers in `tests/data/streams`: both directions of whole migrations.

    python -m tests.support.streams

makes them anew, always the same for one version of the wire format: guests, nonces and time are fixed.
"""

import gzip
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash

from tests.support.loopback import Pair, Writer
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.handshake import Credentials
from vmferry.migration.status import MigrationStatus
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.units import PAGE_SIZE_BYTES
from vmferry.wire import format as fmt
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import Feature, FrameFlag, FrameType
from vmferry.wire.messages import (
    Accepted,
    Barrier,
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

PAGE_COUNT = 24
TOKEN = b"kept for the fuzzers"
ANSWERS = (Challenge, Accepted, Ready, TakenOver, Failed)
KEPT = Path(__file__).parents[1] / "data" / "streams"


def paired(token: bytes = b"", **options: object) -> Pair:
    """Return a small migration that has not begun; both sides know the token."""
    return Pair(PAGE_COUNT, tokens=(token, token), auto_verify=False, **options)  # type: ignore[arg-type]


def _busy(*, xbzrle: bool = False) -> Pair:
    pair = paired(downtime_limit=0, xbzrle=xbzrle)
    writer = Writer(pair, page_count=8, pages_per_s=2000)

    def write_for_a_while(message: Message) -> None:
        if pair.here.running and pair.clock.now_ns() < 1_100_000_000:
            writer.work(message)
            pair.here.ram[20:] = 0  # so that pages with content become zero again
            pair.here.write(20, 0)

    pair.channel.before_send = write_for_a_while
    return pair


def _paused() -> Pair:
    pair = paired()
    pair.here.pause()
    return pair


def _refused() -> Pair:
    return paired(TOKEN, there=MemoryGuest(PAGE_COUNT, vcpu_count=2, running=False))


def _failed() -> Pair:
    pair = paired()
    pair.here.state = b"of another kind"
    return pair


def _waited() -> Pair:
    pair = paired(pause_before_switchover=True)
    looks = iter(range(1200))

    def look() -> None:
        if next(looks, None) is None:
            pair.source.continue_from(MigrationStatus.PRE_SWITCHOVER)

    pair.clock.on_sleep = look
    return pair


def _cancelled_at(kind: type[Message]) -> Pair:
    pair = paired()

    def cancel(message: Message) -> None:
        if isinstance(message, kind):
            pair.source.cancel()

    pair.channel.before_send = cancel
    return pair


MIGRATIONS: dict[str, Callable[[], Pair]] = {
    "plain": paired,
    "token": lambda: paired(TOKEN),
    "verified": lambda: paired(verify=True),
    "busy": _busy,
    "delta": lambda: _busy(xbzrle=True),
    "paused": _paused,
    "waited": _waited,
    "refused": _refused,
    "failed": _failed,
    "cancelled-early": lambda: _cancelled_at(Pages),
    "cancelled-late": lambda: _cancelled_at(Finish),
}


@dataclass(frozen=True)
class Streams:
    """What the two sides of one migration sent."""

    there: bytes
    back: bytes


def record(pair: Pair) -> Streams:
    """Run a migration and return its streams."""
    there, back = Encoder(), Encoder()
    sent: list[bytes] = []
    act = pair.channel.before_send

    def note(message: Message) -> None:
        act(message)
        content = _content(pair, message) if isinstance(message, Pages) else b""
        final = isinstance(message, Pages) and message.final
        sent.append(there.encode(message, xxhash.xxh3_64_intdigest(content) if final else 0) + content)

    pair.channel.before_send = note
    pair.source.run()
    answers = [message for message in pair.channel.messages if isinstance(message, ANSWERS)]
    return Streams(b"".join(sent), b"".join(back.encode(answer) for answer in answers))


def _content(pair: Pair, pages: Pages) -> bytes:
    return pair.here.ram[pages.data.indices()].tobytes() if pages.content is None else bytes(pages.content)


MULTIFD_NONCES = bytes([1] * fmt.NONCE_BYTES), bytes([2] * fmt.NONCE_BYTES)
"""Of the source and of the destination of the migration over more connections."""


@dataclass(frozen=True)
class MultifdStreams:
    """What the source of a migration with one page channel sends over its two connections."""

    first: bytes
    pages: bytes


def multifd() -> MultifdStreams:
    """Return a whole migration of a guest of `PAGE_COUNT` pages; page 0 is sent twice, with a barrier between."""
    guest = MemoryGuest(PAGE_COUNT)
    guest.ram[:, 0] = range(PAGE_COUNT)
    source, destination = (Credentials(nonce) for nonce in MULTIFD_NONCES)
    hello = Hello(guest.layout, source.nonce, Feature.MULTIFD)
    proof = source.answer(destination.challenge(hello), Feature.MULTIFD, 1)
    first, pages = Encoder(), Encoder()
    everything, again = PageRuns.of([(0, PAGE_COUNT)]), PageRuns.of([(0, 1)])
    old = guest.ram[everything.indices()].tobytes()
    new = b"n" * PAGE_SIZE_BYTES
    to_first = (hello, proof, Barrier(0), Barrier(1), State(guest.state), Finish(), Commit(run=True))
    return MultifdStreams(
        b"".join(first.encode(message) for message in to_first),
        pages.encode(source.join(destination.nonce, 1))
        + pages.encode(Pages(everything, EMPTY))
        + old
        + pages.encode(Barrier(1))
        + pages.encode(Pages(again, EMPTY, final=True), xxhash.xxh3_64_intdigest(new))
        + new
        + pages.encode(Finish()),
    )


@dataclass(frozen=True)
class Frame:
    """A frame of a stream and the payload behind it, taken apart by nothing but the tables of the format."""

    kind: int
    flags: int
    body: bytes
    payload: bytes
    is_whole: bool
    """Whether its header, checksum and length are right where it stands."""

    def encoded(self, sequence: int) -> bytes:
        """Return it with a right header."""
        header = fmt.HEADER.pack(self.kind, self.flags, 0, len(self.body), sequence, 0)
        checksum = fmt.checksum(header, self.body).to_bytes(4, "little")
        return header[: fmt.CHECKSUMMED_HEADER_BYTES] + checksum + self.body + self.payload


def frames(stream: bytes) -> Iterator[Frame]:
    """Take a stream apart, up to where it is damaged."""
    offset = sequence = 0
    while offset + fmt.HEADER.size <= len(stream):
        header = stream[offset : offset + fmt.HEADER.size]
        kind, flags, reserved, body_bytes, number, checksum = fmt.HEADER.unpack(header)
        offset += fmt.HEADER.size
        body = stream[offset : offset + body_bytes]
        offset += body_bytes
        is_whole = len(body) == body_bytes and not reserved and number == sequence
        is_whole = is_whole and checksum == fmt.checksum(header, body)
        payload_bytes = _payload_bytes(body, flags) if kind == FrameType.PAGES and is_whole else 0
        payload = stream[offset : offset + payload_bytes]
        offset += payload_bytes
        yield Frame(kind, flags, body, payload, is_whole and len(payload) == payload_bytes)
        if not is_whole:
            return
        sequence += 1


def joined(parts: Sequence[Frame]) -> bytes:
    """Return the stream of these frames, numbered and with checksums."""
    return b"".join(frame.encoded(number) for number, frame in enumerate(parts))


def _payload_bytes(body: bytes, flags: int) -> int:
    rest = body[fmt.PAGES_FIXED.size :]
    if flags & (FrameFlag.ZSTD | FrameFlag.XBZRLE):
        return int.from_bytes(rest[: fmt.PACKED_FIXED.size], "little")
    runs = np.frombuffer(rest[: len(rest) // fmt.RUN.itemsize * fmt.RUN.itemsize], fmt.RUN)
    with_content = runs[runs >> np.uint64(fmt.RUN_ZERO_BIT) == 0] >> np.uint64(fmt.RUN_FIRST_BITS)
    return int(with_content.sum()) * PAGE_SIZE_BYTES


def kept() -> dict[str, Streams]:
    """Return the recorded streams by the name of their migration."""
    return {name: Streams(_read(f"{name}.there.gz"), _read(f"{name}.back.gz")) for name in MIGRATIONS}


def kept_multifd() -> MultifdStreams:
    """Return the recorded streams of the migration over more connections."""
    return MultifdStreams(_read("multifd.first.gz"), _read("multifd.pages.gz"))


def _read(name: str) -> bytes:
    return gzip.decompress((KEPT / name).read_bytes())


def make() -> None:
    """Record all migrations anew."""
    KEPT.mkdir(parents=True, exist_ok=True)
    for name, make_pair in MIGRATIONS.items():
        streams = record(make_pair())
        _write(f"{name}.there.gz", streams.there)
        _write(f"{name}.back.gz", streams.back)
    _write("multifd.first.gz", multifd().first)
    _write("multifd.pages.gz", multifd().pages)


def _write(name: str, stream: bytes) -> None:
    (KEPT / name).write_bytes(gzip.compress(stream, mtime=0))


if __name__ == "__main__":
    make()
