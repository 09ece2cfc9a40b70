"""Messages to bytes."""

import numpy as np

from vmferry.memory.ranges import PageRuns
from vmferry.wire import format as fmt
from vmferry.wire.format import FrameFlag, FrameType
from vmferry.wire.messages import (
    Accepted,
    Barrier,
    Challenge,
    Commit,
    Digest,
    Failed,
    Finish,
    Hello,
    Join,
    Message,
    Pages,
    Proof,
    Ready,
    State,
    TakenOver,
)


class Encoder:
    """Encodes the messages of one direction of one stream, in order."""

    def __init__(self) -> None:
        self._sequence = 0

    def encode(self, message: Message, payload_checksum: int = 0) -> bytes:
        """Return the frame of a message; the bytes of its data pages are to follow it.

        `payload_checksum` is the XXH3-64 of those bytes if the message is final.
        """
        kind, flags, body = _frame_parts(message, payload_checksum)
        assert len(body) <= fmt.MAX_BODY_BYTES[kind], f"{kind.name} of {len(body)} bytes"
        header = fmt.HEADER.pack(kind, flags, 0, len(body), self._sequence, 0)
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        checksum = fmt.checksum(header, body)
        return header[: fmt.CHECKSUMMED_HEADER_BYTES] + checksum.to_bytes(4, "little") + body


def pages_frame_bytes(run_count: int) -> int:
    """Return the size of a Pages frame without its payload."""
    return fmt.HEADER.size + fmt.PAGES_FIXED.size + run_count * fmt.RUN.itemsize


def _frame_parts(message: Message, payload_checksum: int) -> tuple[FrameType, FrameFlag, bytes]:
    no_flags = FrameFlag(0)
    match message:
        case Hello():
            return FrameType.HELLO, no_flags, _hello(message)
        case Challenge(nonce, proof, features):
            return FrameType.CHALLENGE, no_flags, fmt.CHALLENGE_FIXED.pack(nonce, features) + proof
        case Proof(value, features, channel_count):
            agreed = fmt.AGREED_FIXED.pack(features, channel_count) if features else b""
            return FrameType.PROOF, no_flags, value + agreed
        case Join(source_nonce, number, proof):
            return FrameType.JOIN, no_flags, fmt.JOIN_FIXED.pack(fmt.MAGIC, fmt.VERSION, number, source_nonce, proof)
        case Barrier(number, wants_answer):
            flags = FrameFlag.ANSWER if wants_answer else no_flags
            return FrameType.BARRIER, flags, fmt.BARRIER_FIXED.pack(number)
        case Pages():
            return FrameType.PAGES, _pages_flags(message), _pages(message, payload_checksum)
        case State(blob):
            return FrameType.STATE, no_flags, blob
        case Digest(value, limit_ns):
            return FrameType.DIGEST, no_flags, fmt.DIGEST_FIXED.pack(limit_ns) + value
        case Ready(verified):
            return FrameType.READY, no_flags, fmt.READY_FIXED.pack(verified)
        case Commit(run):
            return FrameType.COMMIT, no_flags, fmt.COMMIT_FIXED.pack(run)
        case Failed(reason):
            return FrameType.FAILED, no_flags, _one_line(reason)
        case Accepted():
            return FrameType.ACCEPTED, no_flags, b""
        case Finish():
            return FrameType.FINISH, no_flags, b""
        case TakenOver():
            return FrameType.TAKEN_OVER, no_flags, b""


def _hello(hello: Hello) -> bytes:
    layout = hello.layout
    fixed = fmt.HELLO_FIXED.pack(
        fmt.MAGIC, fmt.VERSION, 0, hello.features, layout.page_size, layout.vcpu_count, hello.nonce
    )
    blocks = []
    for block in layout.ram_blocks:
        name = block.name.encode()
        blocks.append(fmt.BLOCK_FIXED.pack(block.page_count, len(name)) + name)
    return fixed + b"".join(blocks)


def _pages_flags(pages: Pages) -> FrameFlag:
    packing = FrameFlag.XBZRLE if pages.is_delta else FrameFlag.ZSTD
    return FrameFlag((FrameFlag.FINAL if pages.final else 0) | (packing if pages.packed_bytes else 0))


def _pages(pages: Pages, payload_checksum: int) -> bytes:
    packed = fmt.PACKED_FIXED.pack(pages.packed_bytes) if pages.packed_bytes else b""
    runs = _runs(pages.data, zero=False) + _runs(pages.zero, zero=True)
    return fmt.PAGES_FIXED.pack(payload_checksum) + packed + runs


def _runs(runs: PageRuns, *, zero: bool) -> bytes:
    first = runs.first.astype(fmt.RUN)
    count = runs.count.astype(fmt.RUN)
    mark = np.uint64(zero) << np.uint64(fmt.RUN_ZERO_BIT)
    return (first | count << np.uint64(fmt.RUN_FIRST_BITS) | mark).astype(fmt.RUN).tobytes()


def _one_line(reason: str) -> bytes:
    """Return UTF-8 without control characters, of at most the allowed length, cut between characters."""
    line = fmt.CONTROL_CHARACTERS.sub(" ", reason).encode(errors="replace")
    return line[: fmt.MAX_REASON_BYTES].decode(errors="ignore").encode()
