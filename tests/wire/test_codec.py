"""The codec: what goes in comes out, whatever the pieces; what is wrong is a PeerError."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import PeerError
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.ranges import PageRuns
from vmferry.wire import format as fmt
from vmferry.wire.decoder import Decoder
from vmferry.wire.encoder import Encoder, pages_frame_bytes
from vmferry.wire.format import Feature
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

PAGE_COUNT = 5000


@st.composite
def page_messages(draw: st.DrawFn) -> Pages:
    pages = sorted(draw(st.sets(st.integers(0, PAGE_COUNT - 1), max_size=60)))
    runs = PageRuns.from_indices(np.array(pages, np.int64))
    flags = np.array(draw(st.lists(st.booleans(), min_size=len(pages), max_size=len(pages))), bool)
    packed_bytes = draw(st.integers(0, fmt.MAX_PACKED_BYTES))
    return Pages(*runs.split(flags), draw(st.booleans()), packed_bytes, bool(packed_bytes) and draw(st.booleans()))


printable = st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"])
layouts = st.builds(
    GuestLayout,
    st.lists(st.builds(RamBlock, st.text(printable, max_size=60), st.integers(0, 2**30)), max_size=4).map(tuple),
    st.integers(1, 4096),
    st.sampled_from([4096, 65536]),
)
values = st.binary(min_size=32, max_size=32)
features = st.integers(0, 2**32 - 1).map(Feature)
messages = st.one_of(
    st.builds(Hello, layouts, values, features),
    st.builds(Challenge, values, st.sampled_from([b"", b"p" * 32]), features),
    st.builds(Proof, values),
    st.builds(Proof, values, st.just(Feature.MULTIFD), st.integers(1, 255)),
    st.builds(Join, values, st.integers(1, 255), values),
    st.builds(Barrier, st.integers(0, 2**64 - 1), st.booleans()),
    page_messages(),
    st.builds(State, st.binary(max_size=300)),
    st.builds(Digest, st.binary(max_size=16), st.integers(0, 2**64 - 1)),
    st.builds(Ready, st.booleans()),
    st.builds(Commit, st.booleans()),
    st.builds(Failed, st.text(printable, max_size=200)),
    st.sampled_from([Accepted(), Finish(), TakenOver()]),
)


def decode(stream: bytes, piece: int, page_count: int = PAGE_COUNT) -> list[Message]:
    decoder, decoded = Decoder(page_count), []
    while stream:
        size = min(piece, decoder.wanted_bytes)
        message = decoder.feed(stream[:size])
        stream = stream[size:]
        if message is not None:
            decoded.append(message)
    return decoded


def encode(sent: list[Message]) -> bytes:
    encoder = Encoder()
    return b"".join(encoder.encode(message) for message in sent)


@given(st.lists(messages, max_size=8), st.sampled_from([1, 3, 16, 1 << 20]))
def test_round_trip_in_pieces_of_any_size(sent: list[Message], piece: int) -> None:
    assert decode(encode(sent), piece) == sent


def test_the_checksum_of_the_last_pages_travels_with_them() -> None:
    pages = Pages(PageRuns.of([(3, 2)]), PageRuns.of([]), final=True)
    decoder = Decoder(PAGE_COUNT)
    frame = Encoder().encode(pages, payload_checksum=0x1234_5678_9ABC_DEF0)
    while frame:
        size = decoder.wanted_bytes
        decoder.feed(frame[:size])
        frame = frame[size:]
    assert decoder.payload_checksum == 0x1234_5678_9ABC_DEF0


def test_the_size_of_a_pages_frame_is_known_beforehand() -> None:
    pages = Pages(PageRuns.of([(3, 2), (9, 1)]), PageRuns.of([(20, 5)]))
    assert len(Encoder().encode(pages)) == pages_frame_bytes(3)


def test_a_reason_that_is_too_long_is_clipped_between_characters() -> None:
    (failed,) = decode(encode([Failed("é" * 4000)]), 1 << 20)
    assert isinstance(failed, Failed)
    assert failed.reason == "é" * 2048


@given(st.text(st.characters()))
def test_a_reason_arrives_as_one_line_whatever_it_was(reason: str) -> None:
    (failed,) = decode(encode([Failed(reason)]), 1 << 20)
    assert isinstance(failed, Failed)
    assert len(failed.reason.splitlines()) <= 1
    assert len(failed.reason) == len(reason)


@given(st.binary(max_size=400))
def test_garbage_is_refused_and_never_crashes(garbage: bytes) -> None:
    try:
        decode(garbage, 1 << 20)
    except PeerError as error:
        assert "\n" not in str(error)


@given(st.lists(messages, min_size=1, max_size=3), st.data())
def test_every_flipped_bit_is_noticed(sent: list[Message], data: st.DataObject) -> None:
    stream = bytearray(encode(sent))
    bit = data.draw(st.integers(0, len(stream) * 8 - 1))
    stream[bit // 8] ^= 1 << bit % 8
    try:
        decoded = decode(bytes(stream), 1 << 20)
    except PeerError:
        return
    assert len(decoded) < len(sent), "a damaged frame was taken for a good one"


@given(st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1), st.binary(max_size=200))
def test_frames_with_valid_checksums_and_any_content(kind: int, flags: int, length: int, body: bytes) -> None:
    length = min(length, len(body)) if length % 2 else length
    header = fmt.HEADER.pack(kind, flags, 0, length, 0, 0)
    checksum = fmt.checksum(header, body[:length]).to_bytes(4, "little")
    try:
        decode(header[:12] + checksum + body[:length], 1 << 20)
    except PeerError as error:
        assert "\n" not in str(error)


def frame_of(kind: fmt.FrameType, body: bytes, flags: int = 0, sequence: int = 0) -> bytes:
    header = fmt.HEADER.pack(kind, flags, 0, len(body), sequence, 0)
    return header[:12] + fmt.checksum(header, body).to_bytes(4, "little") + body


def run(first: int, count: int, zero: int = 0) -> bytes:
    return (first | count << 40 | zero << 63).to_bytes(8, "little")


HELLO = fmt.HELLO_FIXED.pack(fmt.MAGIC, fmt.VERSION, 0, 0, 4096, 1, b"n" * fmt.NONCE_BYTES)
HELLO_OF_VERSION_1 = HELLO[:8] + b"\1\0" + HELLO[10:24]
JOIN = fmt.JOIN_FIXED.pack(fmt.MAGIC, fmt.VERSION, 3, b"n" * fmt.NONCE_BYTES, b"p" * fmt.PROOF_BYTES)


@pytest.mark.parametrize(
    ("frame", "complaint"),
    [
        (frame_of(fmt.FrameType.PAGES, bytes(8) + run(4999, 2)), "page 5000 of a guest that has 5000 pages"),
        (frame_of(fmt.FrameType.PAGES, bytes(8) + run(1 << 39, 1)), "of a guest that has 5000 pages"),
        (frame_of(fmt.FrameType.PAGES, bytes(8) + run(5, 0)), "empty run"),
        (frame_of(fmt.FrameType.PAGES, bytes(8) + run(5, 3) + run(7, 1)), "overlap"),
        (frame_of(fmt.FrameType.PAGES, bytes(8) + run(5, 3) + run(5, 3, zero=1)), "overlap"),
        (frame_of(fmt.FrameType.PAGES, bytes(8) + run(0, 4000) + run(1, 1)), "overlap"),
        (frame_of(fmt.FrameType.PAGES, bytes(8) + run(9, 1) + run(5, 3)), "not in ascending order"),
        (frame_of(fmt.FrameType.PAGES, bytes(8) + run(1, 1) + run(9, 1, 1) + run(5, 3, 1)), "not in ascending order"),
        (frame_of(fmt.FrameType.PAGES, bytes(8) + run(0, 2**23 - 1)), "pages at once, at most"),
        (frame_of(fmt.FrameType.PAGES, bytes(12)), "ends within a run"),
        (frame_of(fmt.FrameType.PAGES, bytes(7)), "too short"),
        (frame_of(fmt.FrameType.PAGES, bytes(8), flags=16), "reserved bits"),
        (frame_of(fmt.FrameType.PAGES, bytes(11), flags=8), "too short"),
        (frame_of(fmt.FrameType.PAGES, bytes(12), flags=8), "0 bytes of packed pages"),
        (frame_of(fmt.FrameType.PAGES, bytes(12), flags=10), "packed in two ways"),
        (frame_of(fmt.FrameType.PAGES, bytes(11), flags=2), "too short"),
        (frame_of(fmt.FrameType.PAGES, bytes(12), flags=2), "0 bytes of packed pages"),
        (frame_of(fmt.FrameType.PAGES, bytes(8) + b"\1\0\x40\0", flags=2), "4194305 bytes of packed pages"),
        (frame_of(fmt.FrameType.BARRIER, bytes(8), flags=1), "reserved bits"),
        (frame_of(fmt.FrameType.READY, b"", flags=1), "reserved bits"),
        (frame_of(fmt.FrameType.READY, b"", sequence=1), "frame 1 where frame 0 was due"),
        (frame_of(fmt.FrameType.COMMIT, b"\2"), "value 2"),
        (frame_of(fmt.FrameType.READY, b"\2"), "value 2"),
        (frame_of(fmt.FrameType.DIGEST, b"short"), "too short"),
        (frame_of(fmt.FrameType.COMMIT, b""), "too short"),
        (frame_of(fmt.FrameType.FAILED, b"\xff"), "not UTF-8"),
        (frame_of(fmt.FrameType.FAILED, b"no\x1b[2Jmemory"), "control characters"),
        (frame_of(fmt.FrameType.HELLO, HELLO + fmt.BLOCK_FIXED.pack(1, 2) + b"a\n"), "control characters"),
        (frame_of(fmt.FrameType.HELLO, HELLO.replace(b"vmferry", b"QEVMxyz")), "wrong magic"),
        (frame_of(fmt.FrameType.HELLO, HELLO_OF_VERSION_1), "wire format 1, this side 2; use equal versions"),
        (frame_of(fmt.FrameType.HELLO, HELLO[:9]), "too short"),
        (frame_of(fmt.FrameType.HELLO, HELLO[:-1]), "too short"),
        (frame_of(fmt.FrameType.HELLO, HELLO[:10] + b"\1" + HELLO[11:]), "reserved bits"),
        (frame_of(fmt.FrameType.CHALLENGE, bytes(35)), "too short"),
        (frame_of(fmt.FrameType.CHALLENGE, bytes(37)), "CHALLENGE frame of 37 bytes"),
        (frame_of(fmt.FrameType.PROOF, bytes(31)), "PROOF frame of 31 bytes"),
        (frame_of(fmt.FrameType.PROOF, bytes(33)), "too short"),
        (frame_of(fmt.FrameType.PROOF, bytes(32) + b"\1\0\0\0\0\0"), "0 page channels, with the features: multifd"),
        (frame_of(fmt.FrameType.PROOF, bytes(32) + b"\0\0\0\0\1\0"), "1 page channels"),
        (frame_of(fmt.FrameType.PROOF, bytes(32) + b"\1\0\0\0\0\1"), "256 page channels"),
        (frame_of(fmt.FrameType.JOIN, JOIN[:75]), "too short"),
        (frame_of(fmt.FrameType.JOIN, JOIN[:10] + bytes(66)), "for channel 0, 1 to 255 are allowed"),
        (frame_of(fmt.FrameType.JOIN, JOIN.replace(b"\2", b"\1")), "wire format 1, this side 2; use equal versions"),
        (frame_of(fmt.FrameType.BARRIER, bytes(7)), "too short"),
        (frame_of(fmt.FrameType.HELLO, HELLO[:20] + bytes(36)), "0 vCPUs"),
        (frame_of(fmt.FrameType.HELLO, HELLO + fmt.BLOCK_FIXED.pack(1, 5) + b"ram"), "within the name"),
        (frame_of(fmt.FrameType.HELLO, HELLO + fmt.BLOCK_FIXED.pack(2**63, 0)), "too much memory"),
        (frame_of(fmt.FrameType.HELLO, HELLO + fmt.BLOCK_FIXED.pack(1, 0) * 300), "too many RAM blocks"),
        (fmt.HEADER.pack(fmt.FrameType.STATE, 0, 0, 2**32 - 1, 0, 0), "at most 67108864 are allowed"),
        (fmt.HEADER.pack(fmt.FrameType.READY, 0, 1, 0, 0, 0), "reserved bits"),
        (fmt.HEADER.pack(0, 0, 0, 0, 0, 0), "unknown type 0"),
        (b"GET / HTTP/1.1\r\n\r\n"[:16], "not a migration?"),
    ],
)
def test_what_is_wrong_is_named(frame: bytes, complaint: str) -> None:
    with pytest.raises(PeerError, match=complaint.replace("?", r"\?")):
        decode(frame, 1 << 20)


def test_frames_that_are_not_due_are_refused_by_their_header() -> None:
    for kind in fmt.FrameType:
        decoder = Decoder(PAGE_COUNT, fmt.GREETING_FRAMES)
        header = fmt.HEADER.pack(kind, 0, 0, fmt.MAX_BODY_BYTES[kind], 0, 0)
        if kind in fmt.GREETING_FRAMES:
            assert decoder.feed(header) is None
        else:
            with pytest.raises(PeerError, match=f"a {kind.name} frame, which is not due"):
                decoder.feed(header)
        assert decoder.wanted_bytes <= 600_000


def test_nothing_is_kept_of_a_frame_that_is_too_large() -> None:
    decoder = Decoder(PAGE_COUNT)
    with pytest.raises(PeerError):
        decoder.feed(fmt.HEADER.pack(fmt.FrameType.PAGES, 0, 0, 2**31, 0, 0))
    assert decoder.wanted_bytes == 0
