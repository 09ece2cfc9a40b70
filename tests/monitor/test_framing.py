import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.monitor.framing import MAX_MESSAGE_BYTES, MAX_NESTING, BadInput, Frame, Framer

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
MESSAGES = st.dictionaries(st.text(), JSON_VALUES, max_size=4) | st.lists(JSON_VALUES, max_size=4)
SEPARATORS = st.sampled_from(["", " ", "\n", "\r\n\t "])
NOISE = st.lists(st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"'", b"\\", b",", b":", b"\n", b"\xff", b"a1", b"N "]))


def frames(*pieces: bytes) -> list[Frame]:
    framer = Framer()
    return list(itertools.chain.from_iterable(framer.feed(piece) for piece in pieces))


def values(*pieces: bytes) -> list[object]:
    found = frames(*pieces)
    assert not [frame for frame in found if isinstance(frame, BadInput)]
    return [json.loads(frame) for frame in found if isinstance(frame, bytes)]


@given(st.lists(st.tuples(MESSAGES, SEPARATORS, st.sampled_from([None, 1])), max_size=5))
def test_every_message_comes_out_as_it_went_in(parts: list[tuple[object, str, int | None]]) -> None:
    text = "".join(json.dumps(value, indent=indent) + separator for value, separator, indent in parts)
    assert values(text.encode()) == [value for value, _, _ in parts]


@given(NOISE, st.lists(st.integers(1, 7), min_size=1))
def test_how_the_input_is_cut_makes_no_difference(noise: list[bytes], lengths: list[int]) -> None:
    data = b"".join(noise)
    pieces, lengths_again = [], itertools.cycle(lengths)
    position = 0
    while position < len(data):
        length = next(lengths_again)
        pieces.append(data[position : position + length])
        position += length
    assert frames(*pieces) == frames(data)


def test_a_message_needs_no_newline() -> None:
    assert values(b'{"a": 1}') == [{"a": 1}]


def test_two_messages_may_share_a_line() -> None:
    assert values(b'{"a": 1}{"b": 2} [3]') == [{"a": 1}, {"b": 2}, [3]]


def test_brackets_in_strings_do_not_count() -> None:
    assert values(b'{"a": "}]\\"}{", "b": "[\\\\"}') == [{"a": '}]"}{', "b": "[\\"}]


def test_a_bare_number_ends_with_the_next_byte() -> None:
    assert values(b"12", b"3 ") == [123]


def test_single_quotes_work_as_in_qemu() -> None:
    assert values(rb"""{'a': 'it\'s "so"', "b": "that\'s \n", 'c\\': '\"'}""") == [
        {"a": 'it\'s "so"', "b": "that's \n", "c\\": '"'}
    ]


def test_apostrophes_in_ordinary_strings_stay() -> None:
    assert values(b'{"it\'s": "\'"}') == [{"it's": "'"}]


@pytest.mark.parametrize(
    "garbage", [b'{"a": @', b'{"a": "new\nline"\n', b"\xff", b'{"half": \xff', b'{"a": NaN\n', b"\x00", b'"\\\x01"']
)
def test_after_garbage_the_next_message_is_understood(garbage: bytes) -> None:
    found = frames(garbage + b'\n\xff{"b": 2}')
    assert any(isinstance(frame, BadInput) for frame in found)
    assert found[-1] == b'{"b": 2}'


def test_a_wrong_closing_bracket_ends_the_message() -> None:
    assert frames(b'{]{"b": 2}') == [b"{]", b'{"b": 2}']


def test_deep_nesting_ends_the_conversation() -> None:
    deepest = b"[" * MAX_NESTING + b"]" * MAX_NESTING
    assert values(deepest)
    *_, last = frames(b"[" + deepest + b'{"b": 2}')
    assert last == BadInput("JSON nesting depth limit exceeded", fatal=True)


@pytest.mark.parametrize("filler", [b'"' + b"x" * 4095, b"1" * 4096, b'{"a":' + b" " * 4091, b"[{},[],"])
def test_a_message_that_never_ends_ends_the_conversation(filler: bytes) -> None:
    framer = Framer()
    opened = framer.feed(b"[" + filler)
    for _ in range(MAX_MESSAGE_BYTES // 4096 + 1):
        opened += framer.feed(filler[-1:] * 4096)
    assert opened == [BadInput("JSON token size limit exceeded", fatal=True)]
    assert framer.feed(b'{"b": 2}') == []


def test_a_long_string_fed_byte_by_byte_takes_linear_time() -> None:
    framer = Framer()
    framer.feed(b'["')
    for _ in range(200_000):
        assert not framer.feed(b"x")
    (message,) = framer.feed(b'"]')
    assert isinstance(message, bytes)
    assert len(message) == 200_004
