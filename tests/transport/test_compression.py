"""Packed pages: what was packed comes out, nothing else is taken, and a guest moves whole."""

import socket
from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from tests.support.wide import PAGES, WideMigration
from vmferry.errors import PeerError
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.status import MigrationStatus
from vmferry.settings.choices import MultiFdCompression
from vmferry.testing.memory_guest import MemoryGuest
from vmferry.transport.compression import Compression, unpack
from vmferry.transport.stream import StreamChannel
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import MAX_PACKED_BYTES
from vmferry.wire.messages import Barrier, Pages

ZSTD = MultiFdCompression.ZSTD


def views_of(*sizes: int) -> list[memoryview]:
    return [memoryview(bytearray(size)) for size in sizes]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.binary(min_size=1, max_size=40), st.integers(0, 20))
def test_what_is_packed_comes_out_and_is_smaller(counts: list[int], pattern: bytes, level: int) -> None:
    sizes = [4096 * count for count in counts]
    views = views_of(*sizes)
    for view in views:
        view[:] = (pattern * (len(view) // len(pattern) + 1))[: len(view)]
    packed = Compression(ZSTD, level).packer().pack(views)
    assert packed is not None
    assert len(packed) < sum(sizes)
    out = views_of(*sizes)
    unpack(packed, out)
    assert out == views


def test_what_does_not_shrink_stays_as_it_is() -> None:
    noise = memoryview(np.random.default_rng(1).bytes(1 << 16))
    compression = Compression(ZSTD, 1)
    packer = compression.packer()
    assert packer.pack([noise]) is None
    packer.sent(len(noise), len(noise))
    figures = compression.figures()
    assert figures.ratio == 1
    assert packer.pack([memoryview(bytes(MAX_PACKED_BYTES + 1))]) is None
    assert packer.pack([]) is None


def bomb(size_bytes: int) -> bytes:
    return zstandard.ZstdCompressor().compress(bytes(size_bytes))


WITHOUT_SIZE = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(8192))


@pytest.mark.parametrize(
    "packed",
    [bomb(1 << 28), bomb(4096), bomb(8192)[:-1], bomb(8192) + b"x", bomb(8192) * 2, WITHOUT_SIZE, b"", b"no zstd"],
    ids=["bomb", "short", "cut", "tail", "twice", "no size", "nothing", "garbage"],
)
def test_what_is_not_exactly_the_pages_is_refused(packed: bytes) -> None:
    with pytest.raises(PeerError, match="packed pages"):
        unpack(packed, views_of(4096, 4096))


def test_a_header_that_lies_of_its_size_writes_no_more_than_is_due() -> None:
    big = bytearray(bomb(1 << 28))
    parameters = zstandard.get_frame_parameters(bytes(big))
    assert parameters.content_size == 1 << 28
    position = bytes(big).index((1 << 28).to_bytes(4, "little"))
    big[position : position + 4] = (8192).to_bytes(4, "little")
    with pytest.raises(PeerError, match="packed pages"):
        unpack(bytes(big), views_of(4096, 4096))


@pytest.mark.parametrize(
    ("packed_bytes", "is_delta", "complaint"),
    [
        (8192, False, "fewer as they are"),
        (20, False, "packed pages"),
        (8192, True, "fewer as they are"),
        (20, True, "delta of pages"),
    ],
)
def test_a_channel_takes_only_what_is_smaller_packed(packed_bytes: int, is_delta: bool, complaint: str) -> None:
    guest = MemoryGuest(16)
    near, far = socket.socketpair()
    near.setblocking(False)
    pages = Pages(PageRuns.of([(0, 2)]), EMPTY, packed_bytes=packed_bytes, is_delta=is_delta)
    far.sendall(Encoder().encode(pages) + b"\1" * packed_bytes)
    channel = StreamChannel(near, guest)
    assert channel.receive(lambda: None) == pages
    with pytest.raises(PeerError, match=complaint):
        channel.receive_pages(pages, lambda: None)
    assert not guest.ram.any()
    channel.close()
    far.close()


@pytest.mark.parametrize("how", ["zstd", "auto"])
@pytest.mark.parametrize("channels", [0, 2])
def test_a_guest_arrives_packed(tmp_path: Path, channels: int, how: str) -> None:
    migration = WideMigration(tmp_path, channels, multifd_compression=how, verify=True)
    migration.here.ram[:] = np.arange(PAGES * 512).reshape(PAGES, 512)
    migration.run()
    migration.assert_arrived()
    info = migration.source.info()
    assert info.ram
    assert info.compression
    assert info.compression.plain_bytes
    assert info.verified
    if how == "zstd":
        assert info.compression.ratio
        assert info.ram.transferred < info.ram.normal_bytes / 2
        asked = [m for m in migration.cuts.sent[0] if isinstance(m, Barrier) and m.wants_answer]
        assert asked, "the source waits until everything is unpacked before it looks what is left"


def test_packed_pages_that_were_not_agreed_on_are_refused(tmp_path: Path) -> None:
    migration = WideMigration(tmp_path, 0)
    connect = migration._connected

    def pack_anyway(connection: socket.socket) -> StreamChannel:
        channel = connect(connection)
        channel.compress(ZSTD, 1)
        return channel

    migration.connector._make_channel = pack_anyway  # type: ignore[method-assign,assignment]
    assert migration.run() is MigrationStatus.FAILED
    migration.assert_one_owner()
    assert "packed pages, which were not agreed on" in "".join(migration.log)
