"""Sizes, rates and durations as people write them, parsed and printed one way.

Inside the program sizes are bytes, rates bytes per second and durations nanoseconds, all integers.
Suffixes K, M, G, T and Ki.., KiB.. are powers of 1024, as in QEMU; KB, MB, GB, TB and all bit rates
are powers of 1000.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

from vmferry.errors import UsageError

NS_PER_MS, NS_PER_S, MS_PER_S = 1_000_000, 1_000_000_000, 1000
MIB, GIB = 1 << 20, 1 << 30
"""How many of a small unit a larger one holds; written here and nowhere else."""
PAGE_SIZE_BYTES = 4096
"""Of every guest that vmferry moves or models."""
UNKNOWN = "unknown"
"""What is told of a figure that nobody knows."""
_T = TypeVar("_T", int, float)
_NUMBER = r"(?P<number>[0-9]{1,20}(?:\.[0-9]{1,20})?)"
_MAX_SHOWN_CHARACTERS = 40
_BINARY = {prefix: 1024**power for power, prefix in enumerate(["", "K", "M", "G", "T"])}
_DECIMAL = {prefix: 1000**power for power, prefix in enumerate(["", "K", "M", "G", "T"])}

_RATE_BITS = re.compile(_NUMBER + r"\s*(?P<decimal>[KMGT]?)(?:bit/s|bps)", re.IGNORECASE)
_RATE_PAGES = re.compile(_NUMBER + r"\s*pages/s")
_DURATION = re.compile(_NUMBER + r"\s*(?P<unit>ns|us|ms|s|min|h)")
_PLAIN_NUMBER = re.compile(r"[\d.]*[1-9][\d.]*")
_DURATION_NS = {"ns": 1, "us": 10**3, "ms": NS_PER_MS, "s": NS_PER_S, "min": 60 * NS_PER_S, "h": 3600 * NS_PER_S}


def parse_size(text: str) -> int:
    """Return the bytes of a size such as `2G`, `512MiB`, `150MB` or `4096`. Raises UsageError."""
    stripped = text.strip()
    match = re.fullmatch(_NUMBER + r"\s*([KMGT])B", stripped, re.IGNORECASE)
    if match:
        return _scaled(match["number"], _DECIMAL[match[2].upper()])
    match = re.fullmatch(_NUMBER + r"\s*([KMGT]?)(?:iB|i|B)?", stripped, re.IGNORECASE)
    if match:
        return _scaled(match["number"], _BINARY[match[2].upper()])
    raise UsageError(f"{_shown(text)} is not a size; write for example 2G, 512MiB or 150MB")


def parse_rate(text: str) -> int:
    """Return the bytes per second of a rate such as `200MiB/s`, `1.59Gbit/s`, `60M` or `5000pages/s`, of 4096 bytes.

    Raises UsageError.
    """
    match = _RATE_BITS.fullmatch(text.strip())
    if match:
        return _scaled(match["number"], _DECIMAL[match["decimal"].upper()]) // 8
    match = _RATE_PAGES.fullmatch(text.strip())
    if match:
        return _scaled(match["number"], PAGE_SIZE_BYTES)
    try:
        return parse_size(text.strip().removesuffix("/s"))
    except UsageError:
        raise UsageError(f"{_shown(text)} is not a rate; write for example 200MiB/s or 1.59Gbit/s") from None


def require_unit(text: str, example: str) -> str:
    """Return the text of a quantity. Raises UsageError if it is a plain number other than 0.

    Programs do not agree on what a plain number means: bytes, KiB or MiB.
    """
    if _PLAIN_NUMBER.fullmatch(text.strip()):
        raise UsageError(f"{_shown(text)} has no unit; write for example {example}")
    return text


def parse_duration_ns(text: str) -> int:
    """Return the nanoseconds of a duration such as `500ms`, `2s` or `5min`. Raises UsageError."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise UsageError(f"{_shown(text)} is not a duration; write for example 500ms, 2s or 5min")
    return _scaled(match["number"], _DURATION_NS[match["unit"]])


@dataclass(frozen=True)
class GuestLoss:
    """A bound on what a guest loses: a share of its work, or vCPU time; one of them is None."""

    percent: float | None
    vcpu_ns: int | None


def parse_guest_loss(text: str) -> GuestLoss:
    """Return a share of the guest's work such as `30%`, or vCPU time such as `90s`. Raises UsageError."""
    number = text.strip().removesuffix("%").strip()
    if text.strip().endswith("%") and number.replace(".", "", 1).isdecimal():
        if float(number) > 100:
            raise UsageError(f"{_shown(text)} is not 0% to 100%")
        return GuestLoss(float(number), None)
    try:
        return GuestLoss(None, parse_duration_ns(text))
    except UsageError:
        raise UsageError(f"{_shown(text)} is neither a share such as 30% nor vCPU time such as 90s") from None


def format_size(size_bytes: int) -> str:
    """Return a size with three significant digits, such as `1.41 GiB`, `812 MiB` or `0 B`."""
    value, unit = float(size_bytes), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 999.5:
            break
        value, unit = value / 1024, larger
    return f"{_three_digits(value)} {unit}"


def exact_size(size_bytes: int) -> str:
    """Return a size, or a rate, so that it is read as the same number: `2G`, `150M` or `4097`."""
    unit = next((prefix for prefix in "TGMK" if size_bytes and size_bytes % _BINARY[prefix] == 0), "")
    return f"{size_bytes // _BINARY[unit]}{unit}"


def exact_duration(duration_ns: int) -> str:
    """Return a duration so that it is read as the same number: `2h`, `1500ms` or `0s`."""
    if not duration_ns:
        return "0s"
    unit = next(unit for unit, unit_ns in reversed(_DURATION_NS.items()) if duration_ns % unit_ns == 0)
    return f"{duration_ns // _DURATION_NS[unit]}{unit}"


def format_rate(bytes_per_s: float) -> str:
    """Return a rate such as `198 MiB/s`."""
    return f"{format_size(round(bytes_per_s))}/s"


def format_duration(duration_ns: float) -> str:
    """Return a duration such as `512 ms`, `12.4 s` or `6 min 40 s`."""
    if duration_ns < NS_PER_S:
        return f"{_three_digits(duration_ns / NS_PER_MS)} ms"
    seconds = duration_ns / NS_PER_S
    if seconds < 99.95:
        return f"{_three_digits(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def format_ms(duration_ms: float) -> str:
    """Return a duration in milliseconds such as `512 ms` or `12.4 s`."""
    return format_duration(duration_ms * NS_PER_MS)


def whole_ms(time_s: float | None) -> int | None:
    """Return seconds as whole milliseconds; None is what nobody knows."""
    return None if time_s is None else round(time_s * MS_PER_S)


def _scaled(number: str, factor: int) -> int:
    return int(Fraction(number) * factor)


def _shown(text: str) -> str:
    """Quote what may come from anyone: printable and not too long."""
    cut = text if len(text) <= _MAX_SHOWN_CHARACTERS else f"{text[:_MAX_SHOWN_CHARACTERS]}..."
    return "'" + "".join(c if c.isprintable() else "?" for c in cut) + "'"


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def told(value: _T | None, text: Callable[[_T], str], unknown: str = UNKNOWN) -> str:
    """Return the text of a figure, or that it is not known."""
    return unknown if value is None else text(value)
