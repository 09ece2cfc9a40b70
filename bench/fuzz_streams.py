"""Damages recorded migration streams, for long: does either side ever do what its peer has not rightly asked for?

    python -m bench.fuzz_streams [--runs 100000] [--seed 1] [--only NUMBER]

Each run takes a stream of `tests/data/streams`, changes it (bits, cuts, slices; or whole frames, which get right
numbers and checksums again), and gives it to the side that it was sent to. Whatever comes, nothing but a `VmferryError`
may be raised; a destination is in charge only after a whole migration that ends with COMMIT and begins with the proof
for its own nonce, and else its guest is paused and its memory zero; a source lets its guest run unless it has sent
COMMIT. Exit code 1 if one of this is not so.
"""

import argparse
import random
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache

from tests.support.loopback import Pair
from tests.support.streams import MIGRATIONS, Frame, Streams, frames, joined, kept

from bench.chaos.byte_link import FarEnd
from vmferry.errors import ChannelError, UsageError
from vmferry.migration.compression import CompressionFigures
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Owner
from vmferry.settings.choices import MultiFdCompression
from vmferry.wire.decoder import Decoder
from vmferry.wire.format import DESTINATION_FRAMES, NONCE_BYTES, FrameType
from vmferry.wire.messages import Commit, Message

WHOLE_MIGRATION = re.compile("HELLO PROOF (PAGES |BARRIER )*STATE (DIGEST )?FINISH COMMIT ")
_ENDS = {
    Owner.SOURCE: (MigrationStatus.FAILED, MigrationStatus.CANCELLED),
    Owner.IN_DOUBT: (MigrationStatus.IN_DOUBT,),
    Owner.DESTINATION: (MigrationStatus.COMPLETED,),
}
_WHOLE_ANSWER = "CHALLENGE ACCEPTED READY TAKEN_OVER "
FRESH_NONCE = b"f" * NONCE_BYTES


class Damage:
    """Changes streams by chance, always in the same way for a seed and a number."""

    def __init__(self, seed: int, number: int) -> None:
        self.random = random.Random(f"{seed} {number}")

    def done_to(self, stream: bytes, other: bytes) -> bytes:
        """Return the stream with a few changes, some of them pieces of the other one."""
        for _ in range(self.random.choice((1, 1, 1, 2, 5))):
            if self.random.random() < 0.5:
                stream = self._bytes(stream, other)
            else:
                parts = self._frames(list(frames(stream)), list(frames(other)))
                stream = joined(parts)
        return stream

    def pieces(self, stream: bytes) -> Iterable[memoryview]:
        """Cut a stream as a network might."""
        view = memoryview(stream)
        size = self.random.choice((7, 1000, len(stream) + 1))
        return (view[start : start + size] for start in range(0, len(stream), size))

    def _bytes(self, stream: bytes, other: bytes) -> bytes:
        start, end = self._slice(stream)
        from_other = slice(*self._slice(other))
        match self.random.randrange(6):
            case 0 | 1:
                changed = bytearray(stream)
                for _ in range(self.random.choice((1, 1, 8))):
                    bit = self.random.randrange(8 * len(stream)) if stream else 0
                    changed[bit // 8 : bit // 8 + 1] = bytes([changed[bit // 8] ^ 1 << bit % 8]) if stream else b""
                return bytes(changed)
            case 2:
                return stream[:start]
            case 3:
                return stream[:start] + stream[end:]
            case 4:
                return stream[:end] + stream[start:]
            case _:
                return stream[:start] + other[from_other] + stream[end:]

    def _slice(self, stream: bytes) -> tuple[int, int]:
        """Return a range that begins and ends near a frame's beginning more often than chance would have it."""
        places = [self.random.randrange(len(stream) + 1) for _ in range(2)]
        places += [min(len(stream), sum(len(f.encoded(0)) for f in list(frames(stream))[:n])) for n in range(2, 6)]
        start, end = sorted(self.random.sample(places, 2))
        return start, end

    def _frames(self, own: list[Frame], others: list[Frame]) -> list[Frame]:
        if not own:
            return others
        place = self.random.randrange(len(own))
        frame = own[place]
        match self.random.randrange(6):
            case 0:
                del own[place]
            case 1:
                own.insert(self.random.randrange(len(own) + 1), frame)
            case 2:
                self.random.shuffle(own)
            case 3:
                own[place:] = others[self.random.randrange(len(others) + 1) :]
            case 4:
                own[place] = replace(frame, kind=self.random.choice(list(FrameType)))
            case _:
                own[place] = self._changed_body(frame)
        return own

    def _changed_body(self, frame: Frame) -> Frame:
        body = bytearray(frame.body)
        for _ in range(self.random.choice((1, 2))):
            at = self.random.randrange(len(body) + 1)
            body[at : at + self.random.randrange(3)] = self.random.randbytes(self.random.randrange(3))
        return replace(frame, body=bytes(body), flags=frame.flags ^ (self.random.random() < 0.1))


def names(stream: bytes) -> str:
    """Return the names of a stream's frames as far as it is whole, each with a space behind it."""
    whole = (frame for frame in frames(stream) if frame.is_whole and frame.kind in set(FrameType))
    return "".join(f"{FrameType(frame.kind).name} " for frame in whole)


def check_destination(name: str, stream: bytes, pieces: Iterable[memoryview], *, fresh_nonce: bool) -> str:
    """Give a stream to a destination and return what came of it. AssertionError names what must not be."""
    pair = MIGRATIONS[name]()
    destination = pair.destination
    if fresh_nonce:
        destination = MigrationDestination(
            pair.there, pair.clock, MemoryJournal(), replace(pair.there_credentials, nonce=FRESH_NONCE)
        )
    end = FarEnd(destination, pair.there)
    for piece in pieces:
        end.take(piece)
    if destination.in_charge:
        assert not fresh_nonce, "a recorded stream was accepted"
        assert WHOLE_MIGRATION.match(names(stream)), f"in charge after {names(stream)}"
        return "in charge"
    was_active = destination.status is MigrationStatus.FAILED
    end.hang_up()
    assert not pair.there.running, "the guest runs, and was not handed over"
    assert not pair.there.ram.any(), "memory is not fresh"
    return "failed" if was_active else str(destination.status)


class _Answers:
    """A channel for a source whose destination is a stream of answers."""

    max_batch_pages = 16

    def __init__(self, pair: Pair, stream: bytes) -> None:
        self.sent_bytes = self.multifd_bytes = self.unsent_bytes = 0
        self.compression: CompressionFigures | None = None
        self.sent: list[Message] = []
        self._pair = pair
        self._stream = memoryview(stream)
        self._decoder = Decoder(pair.here.layout.page_count, DESTINATION_FRAMES)

    def send(self, message: Message, while_blocked: Callable[[], None]) -> None:
        self.sent.append(message)
        self.sent_bytes += 4096
        self._pair.clock.time_ns += 1_000_000
        while_blocked()

    def receive(self, while_blocked: Callable[[], None]) -> Message:
        while True:
            size_bytes = min(self._decoder.wanted_bytes, len(self._stream))
            if not size_bytes:
                raise ChannelError("the peer closed the connection")
            message = self._decoder.feed(self._stream[:size_bytes])
            self._stream = self._stream[size_bytes:]
            if message:
                return message

    def compress(self, how: MultiFdCompression, level: int) -> None:
        raise UsageError("not here")

    def barrier(self, while_blocked: Callable[[], None]) -> None:
        pass

    def flush(self, while_blocked: Callable[[], None]) -> None:
        pass

    def close(self) -> None:
        pass


def check_source(name: str, stream: bytes) -> str:
    """Give a stream of answers to a source and return what came of it. AssertionError names what must not be."""
    pair = MIGRATIONS[name]()
    pair.channel = _Answers(pair, stream)
    pair.clock.on_sleep = lambda: pair.source.continue_from(pair.source.status)
    ran = pair.here.running
    status, owner = pair.source.run(), pair.source.owner
    assert status in _ENDS[owner], f"{status}, owner: {owner}"
    assert pair.here.running == (ran and owner is Owner.SOURCE), f"running: {pair.here.running}, owner: {owner}"
    assert (owner is Owner.SOURCE) == (not any(isinstance(message, Commit) for message in pair.channel.sent))
    if status is MigrationStatus.COMPLETED:
        assert names(stream).startswith(_WHOLE_ANSWER), f"completed after {names(stream)}"
    return str(status)


@cache
def _kept() -> dict[str, Streams]:
    return kept()


def run_one(seed: int, number: int) -> str:
    """Carry out one run and return what came of it."""
    damage = Damage(seed, number)
    name, other = damage.random.choices(list(MIGRATIONS), k=2)
    streams, others = _kept()[name], _kept()[other]
    if damage.random.random() < 0.25:
        return f"source: {check_source(name, damage.done_to(streams.back, others.back))}"
    stream = damage.done_to(streams.there, others.there)
    fresh = damage.random.random() < 0.3
    seen = check_destination(name, stream, damage.pieces(stream), fresh_nonce=fresh)
    return f"destination{', with a nonce of its own' if fresh else ''}: {seen}"


def main() -> None:
    """Run, and tell how often which end was reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", type=int, help="repeat this run")
    options = parser.parse_args()
    numbers = range(options.runs) if options.only is None else [options.only]
    ends: Counter[str] = Counter()
    faults = 0
    for number in numbers:
        try:
            ends[run_one(options.seed, number)] += 1
        except Exception as error:  # the run that shows it is what matters
            faults += 1
            print(f"--seed {options.seed} --only {number}: {type(error).__name__}: {error}")
    for end, count in sorted(ends.items()):
        print(f"{count:8} {end}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
