"""Bytes to messages. The peer is hostile until proven otherwise.

Every length is capped before anything is allocated for it, every page index is checked against the
guest's size, unknown types, flags and reserved bits are refused. Whatever is wrong with the bytes,
PeerError is raised and nothing else.
"""

import struct
from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from vmferry.errors import PeerError
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.ranges import PageRuns
from vmferry.wire import format as fmt
from vmferry.wire.format import Feature, FrameFlag, FrameType
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

_ALLOWED_FLAGS = {
    FrameType.PAGES: int(FrameFlag.FINAL | FrameFlag.ZSTD | FrameFlag.XBZRLE),
    FrameType.BARRIER: int(FrameFlag.ANSWER),
}
_TLS_HANDSHAKE = 22
"""What a stream of TLS begins with (RFC 8446, section 5.1)."""


class Decoder:
    """Decodes one direction of one stream for a guest of `page_count` pages.

    Frames of other types than `allowed` are refused by their header.

    The caller reads at most `wanted_bytes` bytes, feeds them, and repeats. When `feed` returns a Pages
    message, the bytes of its data pages come next in the stream: the caller reads them itself,
    straight to where they belong, if pages are due, before it goes on. `payload_checksum` is what they must have if
    the message is final.
    """

    def __init__(self, page_count: int, allowed: Collection[FrameType] = fmt.ALL_FRAMES) -> None:
        self.payload_checksum = 0
        self.allowed = allowed
        self._page_count = page_count
        self._sequence = 0
        self._buffer = bytearray()
        self._frame_bytes = fmt.HEADER.size
        self._type: FrameType | None = None
        """The type of the frame whose body is being read; None while its header is."""

    @property
    def wanted_bytes(self) -> int:
        """How many bytes at most can be fed now."""
        return self._frame_bytes - len(self._buffer)

    def feed(self, data: bytes | bytearray | memoryview) -> Message | None:
        """Take bytes and return the message that they complete, if any. Raises PeerError."""
        assert len(data) <= self.wanted_bytes
        self._buffer += data
        if self._type is None and not self.wanted_bytes:
            self._type = self._check_header()
        return None if self.wanted_bytes else self._decode_frame()

    def _check_header(self) -> FrameType:
        kind, flags, reserved, body_bytes, sequence, _ = fmt.HEADER.unpack_from(self._buffer)
        try:
            frame_type = FrameType(kind)
        except ValueError:
            why = "it speaks TLS, which tls-creds asks for" if kind == _TLS_HANDSHAKE else "not a migration?"
            raise PeerError(f"the peer sent a frame of unknown type {kind}: {why}") from None
        if frame_type not in self.allowed:
            raise PeerError(f"the peer sent a {frame_type.name} frame, which is not due")
        if reserved or flags & ~_ALLOWED_FLAGS.get(frame_type, 0):
            raise PeerError(f"the peer sent a {frame_type.name} frame with reserved bits set")
        if body_bytes > fmt.MAX_BODY_BYTES[frame_type]:
            raise PeerError(
                f"the peer sent a {frame_type.name} frame of {body_bytes} bytes, "
                f"at most {fmt.MAX_BODY_BYTES[frame_type]} are allowed"
            )
        if sequence != self._sequence:
            raise PeerError(f"the peer sent frame {sequence} where frame {self._sequence} was due")
        self._frame_bytes += body_bytes
        return frame_type

    def _decode_frame(self) -> Message:
        frame_type = self._type
        assert frame_type is not None
        header, body = bytes(self._buffer[: fmt.HEADER.size]), bytes(self._buffer[fmt.HEADER.size :])
        if fmt.checksum(header, body) != int.from_bytes(header[fmt.CHECKSUMMED_HEADER_BYTES :], "little"):
            raise PeerError(f"the peer sent a damaged {frame_type.name} frame (the checksum differs)")
        self._buffer.clear()
        self._frame_bytes = fmt.HEADER.size
        self._type = None
        self._sequence = (self._sequence + 1) & 0xFFFF_FFFF
        try:
            return self._message(frame_type, header[1], body)
        except struct.error:
            raise PeerError(f"the peer sent a {frame_type.name} frame that is too short") from None

    def _message(self, frame_type: FrameType, flags: int, body: bytes) -> Message:
        if frame_type is FrameType.PAGES:
            return self._pages(body, FrameFlag(flags))
        if frame_type is FrameType.BARRIER:
            (number,) = fmt.BARRIER_FIXED.unpack_from(body)
            return Barrier(number, bool(flags))
        return _BODIES[frame_type](body)

    def _pages(self, body: bytes, flags: FrameFlag) -> Pages:
        (self.payload_checksum,) = fmt.PAGES_FIXED.unpack_from(body)
        offset, packed_bytes = fmt.PAGES_FIXED.size, 0
        if packing := flags & (FrameFlag.ZSTD | FrameFlag.XBZRLE):
            (packed_bytes,) = fmt.PACKED_FIXED.unpack_from(body, offset)
            offset += fmt.PACKED_FIXED.size
            if packing.bit_count() > 1:
                raise PeerError("the peer sent pages that are packed in two ways")
            if not 0 < packed_bytes <= fmt.MAX_PACKED_BYTES:
                raise PeerError(f"the peer sent {packed_bytes} bytes of packed pages")
        if (len(body) - offset) % fmt.RUN.itemsize:
            raise PeerError("the peer sent a PAGES frame that ends within a run")
        runs = np.frombuffer(body, fmt.RUN, offset=offset)
        first = (runs & np.uint64((1 << fmt.RUN_FIRST_BITS) - 1)).astype(np.int64)
        count = (runs >> np.uint64(fmt.RUN_FIRST_BITS)).astype(np.int64) & ((1 << fmt.RUN_COUNT_BITS) - 1)
        is_zero = runs >> np.uint64(fmt.RUN_ZERO_BIT) != 0
        self._check_runs(first, count)
        data = PageRuns(first[~is_zero], count[~is_zero])
        zero = PageRuns(first[is_zero], count[is_zero])
        for kind in (data, zero):
            if (kind.first[1:] < kind.first[:-1]).any():
                raise PeerError("the peer sent runs of pages that are not in ascending order")
        return Pages(data, zero, bool(flags & FrameFlag.FINAL), packed_bytes, bool(flags & FrameFlag.XBZRLE))

    def _check_runs(self, first: NDArray[np.int64], count: NDArray[np.int64]) -> None:
        if not len(first):
            return
        if count.min() == 0:
            raise PeerError("the peer sent an empty run of pages")
        if count.sum() > fmt.MAX_BATCH_PAGES:
            raise PeerError(f"the peer sent {count.sum()} pages at once, at most {fmt.MAX_BATCH_PAGES} are allowed")
        order = np.argsort(first, kind="stable")
        ends = (first + count)[order]
        if ends.max() > self._page_count:
            raise PeerError(f"the peer sent page {ends.max() - 1} of a guest that has {self._page_count} pages")
        if (first[order][1:] < ends[:-1]).any():
            raise PeerError("the peer sent runs of pages that overlap")


def _hello(body: bytes) -> Hello:
    _check_version(body)
    _, _, reserved, features, page_size, vcpu_count, nonce = fmt.HELLO_FIXED.unpack_from(body)
    if reserved:
        raise PeerError("the peer sent a HELLO frame with reserved bits set")
    if not 1 <= vcpu_count <= fmt.MAX_VCPUS:
        raise PeerError(f"the peer sent a guest of {vcpu_count} vCPUs, 1 to {fmt.MAX_VCPUS} are allowed")
    blocks = _blocks(body[fmt.HELLO_FIXED.size :])
    return Hello(GuestLayout(blocks, vcpu_count, page_size), nonce, Feature(features))


def _check_version(body: bytes) -> None:
    """Magic and version are where they are in every version; what comes behind them is this version's."""
    magic, version = fmt.IDENTITY.unpack_from(body)
    if magic != fmt.MAGIC:
        raise PeerError("the peer is not a vmferry source (wrong magic number)")
    if version != fmt.VERSION:
        raise PeerError(f"the peer speaks wire format {version}, this side {fmt.VERSION}; use equal versions")


def _blocks(body: bytes) -> tuple[RamBlock, ...]:
    blocks = []
    while body:
        page_count, name_bytes = fmt.BLOCK_FIXED.unpack_from(body)
        name, body = body[fmt.BLOCK_FIXED.size :][:name_bytes], body[fmt.BLOCK_FIXED.size + name_bytes :]
        if len(name) != name_bytes:
            raise PeerError("the peer sent a HELLO frame that ends within the name of a RAM block")
        blocks.append(RamBlock(_text(name), page_count))
    if len(blocks) > fmt.MAX_BLOCKS or sum(block.page_count for block in blocks) > fmt.MAX_PAGES:
        raise PeerError("the peer sent a guest with too much memory or too many RAM blocks")
    return tuple(blocks)


def _text(data: bytes) -> str:
    """Return text that can be shown as one line without harm to a terminal."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise PeerError("the peer sent text that is not UTF-8") from None
    if fmt.CONTROL_CHARACTERS.search(text):
        raise PeerError("the peer sent text with control characters")
    return text


def _challenge(body: bytes) -> Challenge:
    nonce, features = fmt.CHALLENGE_FIXED.unpack_from(body)
    proof = body[fmt.CHALLENGE_FIXED.size :]
    if len(proof) not in (0, fmt.PROOF_BYTES):
        raise PeerError(f"the peer sent a CHALLENGE frame of {len(body)} bytes")
    return Challenge(nonce, proof, Feature(features))


def _proof(body: bytes) -> Proof:
    value, agreed = body[: fmt.PROOF_BYTES], body[fmt.PROOF_BYTES :]
    if len(value) != fmt.PROOF_BYTES:
        raise PeerError(f"the peer sent a PROOF frame of {len(body)} bytes")
    features, channel_count = fmt.AGREED_FIXED.unpack(agreed) if agreed else (0, 0)
    if channel_count > fmt.MAX_CHANNELS or bool(channel_count) != bool(features & Feature.MULTIFD):
        raise PeerError(f"the peer announced {channel_count} page channels, with the features: {Feature(features)}")
    return Proof(value, Feature(features), channel_count)


def _join(body: bytes) -> Join:
    _check_version(body)
    _, _, number, source_nonce, proof = fmt.JOIN_FIXED.unpack_from(body)
    if not 1 <= number <= fmt.MAX_CHANNELS:
        raise PeerError(f"the peer sent a JOIN frame for channel {number}, 1 to {fmt.MAX_CHANNELS} are allowed")
    return Join(source_nonce, number, proof)


def _digest(body: bytes) -> Digest:
    (limit_ns,) = fmt.DIGEST_FIXED.unpack_from(body)
    return Digest(body[fmt.DIGEST_FIXED.size :], limit_ns)


def _flag(fixed: struct.Struct, name: str, body: bytes) -> bool:
    (value,) = fixed.unpack_from(body)
    if value > 1:
        raise PeerError(f"the peer sent a {name} frame with the value {value}, 0 or 1 are allowed")
    return bool(value)


_BODIES: dict[FrameType, Callable[[bytes], Message]] = {
    FrameType.HELLO: _hello,
    FrameType.CHALLENGE: _challenge,
    FrameType.PROOF: _proof,
    FrameType.JOIN: _join,
    FrameType.STATE: State,
    FrameType.DIGEST: _digest,
    FrameType.READY: lambda body: Ready(_flag(fmt.READY_FIXED, "READY", body)),
    FrameType.COMMIT: lambda body: Commit(_flag(fmt.COMMIT_FIXED, "COMMIT", body)),
    FrameType.FAILED: lambda body: Failed(_text(body)),
    FrameType.ACCEPTED: lambda _: Accepted(),
    FrameType.FINISH: lambda _: Finish(),
    FrameType.TAKEN_OVER: lambda _: TakenOver(),
}
