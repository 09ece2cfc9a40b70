"""QEMU's `key=value,key=value`, read as QEMU reads it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.cli.qemu_syntax import check_keys, parse_count, parse_keys, parse_mebibytes, parse_switch
from vmferry.errors import UsageError

KEYS = st.text("abc-", min_size=1, max_size=3).filter(lambda key: not key.startswith("no"))
VALUES = st.text("xyz,=: ", max_size=8)


def quoted(value: str) -> str:
    return value.replace(",", ",,")


@given(st.dictionaries(KEYS, VALUES))
def test_what_is_written_with_doubled_commas_is_read_as_it_was(keys: dict[str, str]) -> None:
    assert parse_keys(",".join(f"{key}={quoted(value)}" for key, value in keys.items())) == keys


@given(st.text("xyz, ", min_size=1, max_size=8), st.dictionaries(KEYS, VALUES))
def test_the_first_word_may_go_without_its_key(first: str, keys: dict[str, str]) -> None:
    words = [quoted(first), *(f"{key}={quoted(value)}" for key, value in keys.items())]
    assert parse_keys(",".join(words), "implied") == {"implied": first, **keys}


def read_slowly(text: str) -> dict[str, str]:
    """Character by character: words end at a comma that is not doubled, keys at `=`."""
    keys: dict[str, str] = {}
    while text:
        word = ""
        while text and (text[0] != "," or text[:2] == ",,"):
            taken = 2 if text[0] == "," else 1
            word, text = word + text[:taken], text[taken:]
        text = text[1:]
        key, equals, value = word.partition("=")
        if equals and "," not in key:
            keys[key] = value.replace(",,", ",")
        elif word[:2] == "no":
            keys[word[2:]] = "off"
        else:
            keys[word] = "on"
    return keys


@given(st.text("no=,", max_size=12))
def test_any_text_is_read_as_a_slow_reader_reads_it(text: str) -> None:
    assert parse_keys(text) == read_slowly(text)


@pytest.mark.parametrize(
    ("text", "implied_key", "keys"),
    [
        ("", "", {}),
        ("socket,id=mon,path=/a,,b", "backend", {"backend": "socket", "id": "mon", "path": "/a,b"}),
        ("/x,server,nowait", "path", {"path": "/x", "server": "on", "wait": "off"}),
        ("backend=socket,server=on", "backend", {"backend": "socket", "server": "on"}),
        ("size=1G,size=2G", "size", {"size": "2G"}),
        ("a=b=c", "", {"a": "b=c"}),
        ("a,,b=c", "first", {"first": "a,b=c"}),
        ("a=", "", {"a": ""}),
    ],
)
def test_examples(text: str, implied_key: str, keys: dict[str, str]) -> None:
    assert parse_keys(text, implied_key) == keys


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("1G", 1 << 30), ("512", 512 << 20), ("1.5g", 3 << 29), ("64M", 64 << 20), ("1024K", 1 << 20)],
)
def test_memory_sizes(text: str, size_bytes: int) -> None:
    assert parse_mebibytes("-m", text) == size_bytes


@pytest.mark.parametrize("text", ["", "1GB", "-1", "1e3", "G", "1 G", "\u0661"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="-m is a size such as 1G"):
        parse_mebibytes("-m", text)


@pytest.mark.parametrize("text", ["", "0", "256", "two", "1" * 5000, "\u0661"])
def test_what_is_no_count_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="-smp is a number from 1 to 255"):
        parse_count("-smp", text, 1, 255)


def test_switches() -> None:
    assert parse_switch("server", "yes")
    assert not parse_switch("server", "n")
    with pytest.raises(UsageError, match="server is on or off, not 'maybe'"):
        parse_switch("server", "maybe")


def test_only_known_keys_and_values_pass() -> None:
    check_keys("-accel", {"accel": "kvm", "any": "thing"}, {"accel": ("kvm",), "any": ()})
    with pytest.raises(UsageError, match="-accel can only have accel=kvm here, not 'tcg'"):
        check_keys("-accel", {"accel": "tcg"}, {"accel": ("kvm",)})
    with pytest.raises(UsageError, match="-accel does not know 'frob' here; it knows accel"):
        check_keys("-accel", {"frob": "1"}, {"accel": ("kvm",)})
