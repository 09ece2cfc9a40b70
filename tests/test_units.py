"""Sizes, rates and durations as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import UsageError
from vmferry.units import (
    exact_duration,
    exact_size,
    format_duration,
    format_rate,
    format_size,
    parse_duration_ns,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("4096", 4096), ("2G", 2 << 30), ("512MiB", 512 << 20), ("1.5Gi", 3 << 29), ("150MB", 150_000_000),
     ("1 KiB", 1024), ("0", 0), ("7b", 7)],
)  # fmt: skip
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    ("text", "bytes_per_s"),
    [("200MiB/s", 200 << 20), ("1.59Gbit/s", 198_750_000), ("60M", 60 << 20), ("8bps", 1), ("0", 0),
     ("10GB/s", 10**10), ("100Gbps", 12_500_000_000)],
)  # fmt: skip
def test_rates(text: str, bytes_per_s: int) -> None:
    assert parse_rate(text) == bytes_per_s


@pytest.mark.parametrize(
    ("text", "duration_ns"),
    [("500ms", 500_000_000), ("2s", 2 * 10**9), ("5min", 300 * 10**9), ("1.5us", 1500), ("1h", 3600 * 10**9)],
)
def test_durations(text: str, duration_ns: int) -> None:
    assert parse_duration_ns(text) == duration_ns


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1e3", "0x10", "1 2", "NaN", "1GG"])
def test_what_is_no_size_is_refused_by_name(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size; write for example"):
        parse_size(text)


@pytest.mark.parametrize("text", ["", "fast", "5 m", "5", "-1s"])
def test_what_is_no_rate_or_duration_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration"):
        parse_duration_ns(text)
    if text != "5" and text != "5 m":
        with pytest.raises(UsageError, match="is not a rate"):
            parse_rate(text)


@pytest.mark.parametrize("text", ["9" * 400, "1." + "9" * 5000, "9" * 5000 + "s", "\x1b[2J", "\u0663"])
def test_numbers_without_end_and_odd_characters_are_refused_in_a_short_line(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration_ns):
        with pytest.raises(UsageError, match="is not a") as caught:
            parse(text)
        assert len(str(caught.value)) < 120
        assert str(caught.value).isprintable()


def test_printing() -> None:
    assert [format_size(n) for n in (0, 1023, 1024, 812 << 20, 1515000000, 100 << 30)] == [
        "0 B", "0.999 KiB", "1 KiB", "812 MiB", "1.41 GiB", "100 GiB"
    ]  # fmt: skip
    assert format_rate(198 << 20) == "198 MiB/s"
    assert [format_duration(n) for n in (0, 512_000_000, 12_400_000_000, 400 * 10**9)] == [
        "0 ms", "512 ms", "12.4 s", "6 min 40 s"
    ]  # fmt: skip


@given(st.integers(0, 10**15))
def test_a_size_survives_printing_to_three_digits(size_bytes: int) -> None:
    assert parse_size(format_size(size_bytes)) == pytest.approx(size_bytes, rel=0.006)


@given(st.integers(0, 10**19))
def test_an_exact_text_is_read_as_the_same_number(number: int) -> None:
    assert parse_size(exact_size(number)) == parse_rate(exact_size(number)) == number
    assert parse_duration_ns(exact_duration(number)) == number


@pytest.mark.parametrize(("number", "text"), [(0, "0"), (2 << 30, "2G"), (150 << 20, "150M"), (4097, "4097")])
def test_exact_sizes_are_short(number: int, text: str) -> None:
    assert exact_size(number) == text


@pytest.mark.parametrize(("number", "text"), [(0, "0s"), (3600 * 10**9, "1h"), (1500 * 10**6, "1500ms"), (1, "1ns")])
def test_exact_durations_are_short(number: int, text: str) -> None:
    assert exact_duration(number) == text
