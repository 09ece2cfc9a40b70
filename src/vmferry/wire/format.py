"""What encoder and decoder agree on: numbers, layouts and caps of wire format version 2.

All integers are little-endian. A frame is a header and a body; the pages of a Pages frame follow it raw.
"""

import re
import struct
from enum import IntEnum, IntFlag

import numpy as np
import xxhash

MAGIC = b"vmferry\x00"
VERSION = 2


class Feature(IntFlag):
    """What a stream may make use of if both sides know it; named as the setting that asks for it."""

    MULTIFD = 1
    """Pages come over more connections, kept in order by barriers."""
    ZSTD = 2
    """Pages may be packed by zstd."""
    XBZRLE = 4
    """Of pages that were sent before, only what changed may come."""

    def without(self, others: "Feature") -> "Feature":
        """Return those that are not among the others, unknown ones included."""
        return Feature(int(self) & ~int(others))

    def __str__(self) -> str:
        return " and ".join(_FEATURE_NAMES.get(bit, f"feature {bit:#x}") for bit in _bits(self))


def _bits(value: int) -> list[int]:
    return [1 << bit for bit in range(value.bit_length()) if value >> bit & 1]


_FEATURE_NAMES = {int(feature): str(feature.name).lower() for feature in Feature}
KNOWN_FEATURES = Feature(sum(Feature))
NO_FEATURES = Feature(0)


class FrameType(IntEnum):
    """The first byte of a frame."""

    HELLO = 1
    ACCEPTED = 2
    PAGES = 3
    STATE = 4
    DIGEST = 5
    FINISH = 6
    READY = 7
    COMMIT = 8
    TAKEN_OVER = 9
    FAILED = 10
    CHALLENGE = 11
    PROOF = 12
    JOIN = 13
    BARRIER = 14


class FrameFlag(IntFlag):
    """The second byte of a frame; unknown bits are refused."""

    FINAL = 1
    """Pages: the guest is stopped and the payload carries a checksum."""
    ZSTD = 2
    """Pages: the payload is one zstd frame."""
    ANSWER = 4
    """Barrier: the destination says when it has met it."""
    XBZRLE = 8
    """Pages: the payload is a delta to what was sent of them before."""


HEADER = struct.Struct("<BBHIII")
"""type, flags, reserved (0), body length, sequence number, checksum."""

CHECKSUMMED_HEADER_BYTES = HEADER.size - 4

IDENTITY = struct.Struct("<8sH")
"""magic, version: the beginning of HELLO and JOIN in every version of the format."""

NONCE_BYTES = 32
PROOF_BYTES = 32

HELLO_FIXED = struct.Struct(f"<8sHHIII{NONCE_BYTES}s")
"""magic, version, reserved (0), features, page size, vCPU count, nonce; then the blocks to the end."""

CHALLENGE_FIXED = struct.Struct(f"<{NONCE_BYTES}sI")
"""nonce, features; then the proof, if there is one."""

AGREED_FIXED = struct.Struct("<IH")
"""features, number of page channels: what follows the proof in PROOF if there are features."""

JOIN_FIXED = struct.Struct(f"<8sHH{NONCE_BYTES}s{PROOF_BYTES}s")
"""magic, version, number of the channel, the nonce of the migration's HELLO, proof."""

BARRIER_FIXED = struct.Struct("<Q")
"""number of the barrier."""

BLOCK_FIXED = struct.Struct("<QB")
"""page count, length of the name, which follows in UTF-8."""

PAGES_FIXED = struct.Struct("<Q")
"""XXH3-64 of the payload if final, else 0; then the runs to the end, 8 bytes each."""

PACKED_FIXED = struct.Struct("<I")
"""Size of the payload, before the runs, if it is packed."""

RUN = np.dtype("<u8")
RUN_FIRST_BITS = 40
RUN_COUNT_BITS = 23
RUN_ZERO_BIT = 63
"""A run: first page in bits 0 to 39, page count in 40 to 62, and bit 63 set if the pages are zero."""

DIGEST_FIXED = struct.Struct("<Q")
"""How many nanoseconds the destination may work on its digest, 0 for no limit; the source's follows to the end."""

READY_FIXED = struct.Struct("<B")
"""1 if the digests are the same, 0 if none were compared."""

COMMIT_FIXED = struct.Struct("<B")
"""1 if the guest is to run, 0 if it stays paused."""

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""Not allowed in text, which is shown to people as one line: controls, line and paragraph separators."""

MAX_RUNS = 65_536
MAX_BATCH_PAGES = 1 << 20
MAX_PACKED_BYTES = 4 << 20
"""Of a packed payload, and of what it becomes."""
MAX_BLOCKS = 256
MAX_VCPUS = 4096
MAX_CHANNELS = 255
MAX_PAGES = 1 << RUN_FIRST_BITS
MAX_REASON_BYTES = 4096
MAX_STATE_BYTES = 64 << 20
MAX_DIGEST_BYTES = 64

MAX_BODY_BYTES = {
    FrameType.HELLO: HELLO_FIXED.size + MAX_BLOCKS * (BLOCK_FIXED.size + 255),
    FrameType.CHALLENGE: CHALLENGE_FIXED.size + PROOF_BYTES,
    FrameType.PROOF: PROOF_BYTES + AGREED_FIXED.size,
    FrameType.JOIN: JOIN_FIXED.size,
    FrameType.BARRIER: BARRIER_FIXED.size,
    FrameType.ACCEPTED: 0,
    FrameType.PAGES: PAGES_FIXED.size + PACKED_FIXED.size + MAX_RUNS * RUN.itemsize,
    FrameType.STATE: MAX_STATE_BYTES,
    FrameType.DIGEST: DIGEST_FIXED.size + MAX_DIGEST_BYTES,
    FrameType.FINISH: 0,
    FrameType.READY: READY_FIXED.size,
    FrameType.COMMIT: COMMIT_FIXED.size,
    FrameType.TAKEN_OVER: 0,
    FrameType.FAILED: MAX_REASON_BYTES,
}

ALL_FRAMES = frozenset(FrameType)

GREETING_FRAMES = frozenset({FrameType.HELLO, FrameType.PROOF, FrameType.JOIN, FrameType.PAGES, FrameType.BARRIER})
"""What a destination reads of somebody whose migration has not begun."""

PAGE_CHANNEL_FRAMES = frozenset({FrameType.PAGES, FrameType.BARRIER, FrameType.FINISH})
"""What it reads on a connection that has joined a migration."""

DESTINATION_FRAMES = frozenset(
    {
        FrameType.CHALLENGE,
        FrameType.ACCEPTED,
        FrameType.BARRIER,
        FrameType.READY,
        FrameType.TAKEN_OVER,
        FrameType.FAILED,
    }
)
SOURCE_FRAMES = ALL_FRAMES - DESTINATION_FRAMES - {FrameType.JOIN} | {FrameType.BARRIER}


def checksum(header: bytes, body: bytes) -> int:
    """Return the checksum of a frame: the low 32 bits of XXH3-64 of the header before it and the body."""
    digest = xxhash.xxh3_64(header[:CHECKSUMMED_HEADER_BYTES])
    digest.update(body)
    return digest.intdigest() & 0xFFFF_FFFF
