"""Checks values of scenario files against their bounds, in people's spelling."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from vmferry.errors import UsageError
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.units import format_duration, format_rate, parse_duration_ns, parse_rate, parse_size

MAX_BYTES_PER_S = 1 << 50
NS_PER_HOUR = 3600 * 10**9
_MAX_TIME_NS = 1000 * NS_PER_HOUR
_N = TypeVar("_N", int, float)


def require(name: str, value: _N, least: _N, most: _N) -> None:
    """Raise UsageError unless a value is in its range."""
    if not least <= value <= most:  # so is what is no number
        raise UsageError(f"{name} is {value}, {least:.12g} to {most:.12g} is allowed")


@contextmanager
def telling(where: str) -> Iterator[None]:
    """Begin the text of a UsageError with the key that it is about."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def checked_size(name: str, text: str) -> int:
    """Return a size in bytes: 0, or at least a page. Raises UsageError."""
    size_bytes = parse_size(text)
    if 0 < size_bytes < PAGE_SIZE_BYTES:
        raise UsageError(f"{name} is {text}, less than a page of {PAGE_SIZE_BYTES} bytes")
    return size_bytes


def check_rate(name: str, text: str, least: int = 0) -> None:
    """Raise UsageError for a rate that is too low or too high."""
    if not least <= parse_rate(text) <= MAX_BYTES_PER_S:
        raise UsageError(f"{name} is {text}, {least} B/s to {format_rate(MAX_BYTES_PER_S)} is allowed")


def check_duration(name: str, text: str, least_ns: int = 0, most_ns: int = _MAX_TIME_NS) -> None:
    """Raise UsageError for a time that is too short or too long."""
    if not least_ns <= parse_duration_ns(text) <= most_ns:
        allowed = f"{format_duration(least_ns)} to {most_ns // NS_PER_HOUR} h"
        raise UsageError(f"{name} is {text}, {allowed} is allowed")
