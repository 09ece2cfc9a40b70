"""The kept streams: what the format was when they were made, and what becomes of them when they are damaged."""

import tracemalloc

import pytest
from bench.fuzz_streams import Damage, check_destination, check_source, names, run_one

from tests.support.streams import MIGRATIONS, PAGE_COUNT, frames, joined, kept, kept_multifd, multifd, record
from vmferry.wire import format as fmt
from vmferry.wire.decoder import Decoder
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import FrameType

KEPT = kept()
MULTIFD = kept_multifd()
SEED = 9


@pytest.mark.parametrize("name", MIGRATIONS)
def test_streams_are_still_what_they_were(name: str) -> None:
    assert record(MIGRATIONS[name]()) == KEPT[name], (
        "is this a new version of the format? python -m tests.support.streams"
    )


def test_every_kind_of_message_is_among_them() -> None:
    streams = [stream for both in KEPT.values() for stream in (both.there, both.back)]
    streams += [MULTIFD.first, MULTIFD.pages]
    assert {frame.kind for stream in streams for frame in frames(stream)} == set(FrameType)


def test_streams_of_more_connections_are_still_what_they_were() -> None:
    assert multifd() == MULTIFD, "is this a new version of the format? python -m tests.support.streams"


@pytest.mark.parametrize("name", [*MIGRATIONS, "multifd"])
def test_decoding_and_encoding_again_gives_the_same_bytes(name: str) -> None:
    streams = (MULTIFD.first, MULTIFD.pages) if name == "multifd" else (KEPT[name].there, KEPT[name].back)
    for stream in streams:
        decoder, encoder, again = Decoder(PAGE_COUNT), Encoder(), b""
        for number, frame in enumerate(frames(stream)):
            assert frame.is_whole
            data, message = frame.encoded(number), None
            while message is None:
                size_bytes = decoder.wanted_bytes
                message, data = decoder.feed(data[:size_bytes]), data[size_bytes:]
            assert data == frame.payload
            again += encoder.encode(message, decoder.payload_checksum) + frame.payload
        assert again == stream == joined(list(frames(stream)))


@pytest.mark.parametrize("name", MIGRATIONS)
def test_undamaged_they_lead_where_they_led_and_to_nothing_a_second_time(name: str) -> None:
    streams = KEPT[name]
    completed = names(streams.there).endswith("COMMIT ")
    ends = {"refused": "setup"}
    once = check_destination(name, streams.there, [memoryview(streams.there)], fresh_nonce=False)
    assert once == ("in charge" if completed else ends.get(name, "failed"))
    assert check_destination(name, streams.there, [memoryview(streams.there)], fresh_nonce=True) == "setup"
    assert (check_source(name, streams.back) == "completed") == completed


def test_damaged_they_do_no_harm() -> None:
    ends = {run_one(SEED, number) for number in range(500)}
    assert ends == {
        "destination: in charge", "destination: failed", "destination: setup",
        "destination, with a nonce of its own: setup", "source: completed", "source: failed", "source: in-doubt",
    }  # fmt: skip


def test_damaged_they_take_no_more_memory_than_they_have() -> None:
    peaks = []
    tracemalloc.start()
    try:
        for number in range(60):
            damage = Damage(SEED, number)
            name, other = damage.random.choices(list(MIGRATIONS), k=2)
            stream = damage.done_to(KEPT[name].there, KEPT[other].there)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            check_destination(name, stream, damage.pieces(stream), fresh_nonce=False)
            peaks.append(tracemalloc.get_traced_memory()[1] - before - 3 * len(stream))
    finally:
        tracemalloc.stop()
    assert max(peaks) < 1 << 20


def test_what_is_announced_takes_no_memory_before_it_comes() -> None:
    begun = joined(list(frames(KEPT["plain"].there))[:4])
    header = fmt.HEADER.pack(FrameType.STATE, 0, 0, fmt.MAX_STATE_BYTES, 4, 0)
    tracemalloc.start()
    try:
        stream = begun + header + bytes(100)
        assert check_destination("plain", stream, [memoryview(stream)], fresh_nonce=False) == "failed"
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
