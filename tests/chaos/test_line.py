"""Each fault does what it says, at the place that it says, however the bytes come in pieces."""

import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from bench.chaos.faults import (
    CATALOGUE,
    AnyFault,
    Cut,
    Direction,
    Drip,
    Flip,
    Freeze,
    Kill,
    Party,
    Place,
    Replay,
    Reset,
    Stall,
    draw_fault,
    frame_place,
    generator,
)
from bench.chaos.line import Line, Pause, Step
from hypothesis import given
from hypothesis import strategies as st

from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.wire.encoder import Encoder
from vmferry.wire.messages import Commit, Finish, Hello, Pages, State

THERE, BACK = Direction
DATA = bytes(range(256)) * 4
SIZES = st.lists(st.integers(1, 400), max_size=12)


def pieces(data: bytes, sizes: Sequence[int]) -> Iterator[bytes]:
    for size in sizes:
        yield data[:size]
        data = data[size:]
    yield data


def steps_of(fault: AnyFault, data: bytes, sizes: Sequence[int] = (), direction: Direction = THERE) -> list[Step]:
    """What a line does with data in pieces, with the bytes between two other steps in one."""
    line = Line(fault, direction)
    steps: list[Step] = []
    for piece in pieces(data, sizes):
        for step in line.steps(piece):
            if isinstance(step, memoryview) and steps and isinstance(steps[-1], memoryview):
                steps[-1] = memoryview(bytes(steps[-1]) + bytes(step))
            else:
                steps.append(step)
    return steps


def passed(steps: list[Step]) -> bytes:
    return b"".join(step for step in steps if isinstance(step, memoryview))


@given(st.integers(1, len(DATA)), SIZES)
def test_an_incident_happens_between_two_bytes(offset: int, sizes: list[int]) -> None:
    for make in (lambda place: Cut(place, half=False), Reset, lambda place: Kill(place, Party.SOURCE)):
        fault = make(Place(THERE, offset))
        assert [*steps_of(fault, DATA, sizes), b""][:3] == [DATA[:offset], fault, DATA[offset:]]


@given(st.integers(0, len(DATA) - 1), st.integers(0, 7), SIZES)
def test_a_flip_changes_one_bit(offset: int, bit: int, sizes: list[int]) -> None:
    arrived = passed(steps_of(Flip(Place(THERE, offset), bit), DATA, sizes))
    expected = bytearray(DATA)
    expected[offset] ^= 1 << bit
    assert arrived == expected


@given(st.integers(0, len(DATA)), st.integers(1, 700), SIZES)
def test_a_replay_repeats_what_came_last(offset: int, size: int, sizes: list[int]) -> None:
    arrived = passed(steps_of(Replay(Place(THERE, offset), size), DATA, sizes))
    assert arrived == DATA[:offset] + DATA[max(0, offset - size) : offset] + DATA[offset:]


@given(st.integers(1, len(DATA) - 1), SIZES)
def test_a_stall_changes_nothing_but_the_time(offset: int, sizes: list[int]) -> None:
    steps = steps_of(Stall(Place(THERE, offset), 300), DATA, sizes)
    assert steps == [DATA[:offset], Pause(300), DATA[offset:]]


@given(st.integers(1, 900), st.integers(1, 100), SIZES)
def test_a_drip_lets_so_many_bytes_pass_one_by_one(offset: int, size: int, sizes: list[int]) -> None:
    steps = steps_of(Drip(Place(THERE, offset), size, 10), DATA, sizes)
    assert passed(steps) == DATA
    assert steps.count(Pause(10)) == size
    first = steps.index(Pause(10))
    assert steps[first - 1] == memoryview(DATA)[:offset]
    assert [len(step) for step in steps[first + 1 : -1 : 2]] == [1] * (size - 1)  # type: ignore[arg-type]


@given(SIZES)
def test_the_other_direction_is_left_alone(sizes: list[int]) -> None:
    for name in CATALOGUE:
        fault = CATALOGUE[name](random.Random(1), Place(THERE, 5))
        assert steps_of(fault, DATA, sizes, BACK) == [memoryview(DATA)]


def test_a_place_beyond_the_end_is_never_reached() -> None:
    line = Line(Cut(Place(THERE, len(DATA) + 1), half=False), THERE)
    assert [bytes(step) for step in line.steps(DATA) if isinstance(step, memoryview)] == [DATA]
    assert not line.has_fired


def stream() -> tuple[bytes, list[tuple[str, int, int]]]:
    """A stream of ours, and where its frames begin and end, with their pages."""
    encoder = Encoder()
    data, frames = b"", []
    runs = PageRuns(np.array([3]), np.array([2]))
    for name, message, payload in (
        ("HELLO", Hello(GuestLayout((RamBlock("pc.ram", 64),), 2)), b""),
        ("PAGES", Pages(runs, EMPTY), bytes(8192)),
        ("PAGES", Pages(EMPTY, runs), b""),
        ("PAGES", Pages(runs, EMPTY, final=True), b"\3" * 8192),
        ("STATE", State(b"\x03registers"), b""),
        ("FINISH", Finish(), b""),
        ("COMMIT", Commit(run=True), b""),
    ):
        start, data = len(data), data + encoder.encode(message) + payload
        frames.append((name, start, len(data)))
    return data, frames


@pytest.mark.parametrize("sizes", [(), (1,) * 70, (16, 48, 5, 8000, 300)])
def test_a_place_within_a_frame_is_found(sizes: Sequence[int]) -> None:
    data, frames = stream()
    seen: dict[str, int] = {}
    for name, start, end in frames:
        seen[name] = seen.get(name, 0) + 1
        for offset in (0, 1, 15, 16, 17, 40, 100_000):
            place = Place(THERE, offset, name, seen[name])
            steps = steps_of(Cut(place, half=True), data, sizes)
            before = len(steps[0]) if isinstance(steps[0], memoryview) else 0
            assert before == min(start + offset, end), place
            assert passed(steps) == data


def test_frames_are_not_looked_for_in_what_is_no_stream_of_ours() -> None:
    assert steps_of(Cut(Place(THERE, 0, "COMMIT"), half=False), DATA, (100,)) == [memoryview(DATA)]


def test_a_seed_and_a_number_draw_the_same_fault_for_ever() -> None:
    def draw(seed: int, number: int) -> AnyFault:
        return draw_fault(generator(seed, number), list(CATALOGUE), lambda draw: frame_place(draw, 1 << 20))

    drawn = [draw(1, number) for number in range(500)]
    assert drawn == [draw(1, number) for number in range(500)]
    assert drawn != [draw(2, number) for number in range(500)]
    assert {fault.name for fault in drawn} == set(CATALOGUE)
    assert drawn[0] == Freeze(Place(BACK, 1), Party.SOURCE, 50), "records of earlier runs cannot be repeated any more"
