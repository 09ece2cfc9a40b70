"""The axes of plots: where they end, and which ticks they have."""

import math
from dataclasses import dataclass, replace

_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_LOG_RANGE = 2**14
_LOG_STEP = 16


@dataclass(frozen=True)
class Axis:
    """A vertical axis. What it shows are values divided by `divisor`; so are its ends and ticks."""

    unit: str
    divisor: float
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False


def percent_axis(highest: float) -> Axis:
    """Return an axis from 0 to 100 %."""
    return Axis("%", 1, 0, 100, tuple((tick, f"{tick}") for tick in (0, 25, 50, 75, 100)))


def count_axis(highest: float) -> Axis:
    """Return a linear axis for whole numbers."""
    return Axis("", 1, 0, max(1, highest), _whole_ticks(max(1, highest)))


def plain_axis(highest: float) -> Axis:
    """Return a linear axis for any numbers, with some room at its end."""
    high = highest * 1.12 or 1
    return Axis("", 1, 0, high, linear_ticks(high))


def bytes_axis(highest: float) -> Axis:
    """Return a linear axis for bytes."""
    unit, divisor = _binary_unit(highest)
    high = max(highest / divisor, 1)
    return Axis(unit, divisor, 0, high, linear_ticks(high))


def rate_axis(highest: float) -> Axis:
    """Return a linear axis for bytes per second."""
    axis = bytes_axis(highest)
    return replace(axis, unit=f"{axis.unit}/s")


def size_axis(highest: float) -> Axis:
    """Return a logarithmic axis for bytes: the first pass may be a hundred times as large as the last ones."""
    _, divisor = _binary_unit(highest)
    high = max(highest / divisor, 1)
    powers = (_LOG_STEP**exponent for exponent in range(-8, 4))
    ticks = tuple((float(tick), size_text(tick * divisor)) for tick in powers if high / _LOG_RANGE <= tick <= high)
    return Axis("", divisor, high / _LOG_RANGE, high * 1.3, ticks, log=True)


def linear_ticks(high: float, count: int = 5) -> tuple[tuple[float, str], ...]:
    """Return about `count` round values from 0 to `high`, with their texts."""
    rough = high / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    values = (number * step for number in range(math.floor(high / step * 1.001) + 1))
    return tuple((value, f"{value:.4g}" if value < 1e4 else f"{value:.0f}") for value in values)


def size_text(size_bytes: float) -> str:
    """Return a power of two as a size, such as `256 MiB`."""
    unit, divisor = _binary_unit(size_bytes)
    return f"{size_bytes / divisor:g} {unit}"


def _whole_ticks(high: float) -> tuple[tuple[float, str], ...]:
    return tuple((value, text) for value, text in linear_ticks(high) if value == int(value))


def _binary_unit(size_bytes: float) -> tuple[str, float]:
    exponent = 0
    while size_bytes >= 1024 ** (exponent + 1) and exponent < len(_BINARY_UNITS) - 1:
        exponent += 1
    return _BINARY_UNITS[exponent], 1024.0**exponent
