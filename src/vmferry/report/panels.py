"""What a picture of migrations consists of: panels under each other on one time axis, and a colour for each label."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import cycle

from vmferry.convergence.variants import ALL_VARIANTS, NO_AUTO_CONVERGE, VARIANTS
from vmferry.report.series import RunSeries, Series

COLOURS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#A6761D"),
    *("#332288", "#882255", "#999933", "#44AA99", "#AA4499", "#117733", "#DDCC77"),
)
"""Told apart by colour-blind people too (Okabe and Ito, Tol). The variants have the first ones, in their order;
lines beside those have what is left: what was recorded, and further runs of one variant under other names."""
_VARIANT_COLOURS = dict(
    zip(
        (*VARIANTS, NO_AUTO_CONVERGE.name, *(name for name in ALL_VARIANTS if name not in VARIANTS)),
        COLOURS,
        strict=False,
    )
)
_OTHER_COLOURS = COLOURS[len(VARIANTS) + 1 :]

_BINARY_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_LOG_RANGE = 2**14
_LOG_STEP = 16


class Shape(Enum):
    """What lies between two points."""

    LINE = "linear"
    STEPS = "hv"
    """A value holds until the next point."""
    PERIODS = "vh"
    """A value holds since the point before."""


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


def rate_axis(highest: float) -> Axis:
    """Return a linear axis for bytes per second."""
    unit, divisor = _binary_unit(highest)
    high = max(highest / divisor, 1)
    return Axis(f"{unit}/s", divisor, 0, high, linear_ticks(high))


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


@dataclass(frozen=True)
class Panel:
    """A part of the picture that shows one figure over time."""

    title: str
    lines: Callable[[RunSeries], Sequence[Series]]
    shape: Shape
    make_axis: Callable[[float], Axis]

    def axis(self, runs: Iterable[RunSeries]) -> Axis:
        """Return an axis on which all of the runs have room."""
        values = (line.values.max() for run in runs for line in self.lines(run) if len(line))
        return self.make_axis(float(max(values, default=1)))

    def has_lines(self, runs: Iterable[RunSeries]) -> bool:
        """Tell whether there is anything to draw."""
        return any(len(line) for run in runs for line in self.lines(run))


MEASURED_SPEED = Panel(
    "Guest pages/s per vCPU, measured", lambda run: run.measured_pages_per_s, Shape.PERIODS, count_axis
)
SPEED = Panel(
    "Guest speed (100 - throttle)",
    lambda run: () if run.measured_pages_per_s else (run.guest_speed_percent,),
    Shape.STEPS,
    percent_axis,
)
THROTTLE = Panel("Throttle", lambda run: (run.throttle_percent,), Shape.STEPS, percent_axis)
REMAINING = Panel("Remaining memory, logarithmic", lambda run: (run.remaining_bytes,), Shape.LINE, size_axis)
DIRTY_RATE = Panel("Dirty rate between evaluations", lambda run: (run.dirty_bytes_per_s,), Shape.PERIODS, rate_axis)
BANDWIDTH = Panel("Bandwidth", lambda run: (run.bandwidth_bytes_per_s,), Shape.LINE, rate_axis)
ITERATIONS = Panel("Iterations (x: background sync)", lambda run: (run.iterations,), Shape.STEPS, count_axis)


def colour_of_labels(runs: Iterable[RunSeries]) -> dict[str, str]:
    """Return a colour for each label, in the order of appearance. A variant has the same colour on every page.

    That is the colour of the label which is its name, or else of the first run with it.
    """
    return colours_of({run.label: run.variant for run in runs})


def colours_of(variants: Mapping[str, str]) -> dict[str, str]:
    """Return a colour for each label, of which the variants are known."""
    owners: dict[str, str] = {}
    for label in sorted(variants, key=lambda label: label != variants[label]):
        owners.setdefault(variants[label], label)
    own = {owners[variant]: _VARIANT_COLOURS[variant] for variant in owners.keys() & _VARIANT_COLOURS.keys()}
    others = cycle([colour for colour in _OTHER_COLOURS if colour not in own.values()])
    return {label: own.get(label) or next(others) for label in variants}


def by_label(runs: Iterable[RunSeries]) -> dict[str, list[RunSeries]]:
    """Return the repeats of each label."""
    repeats: dict[str, list[RunSeries]] = {}
    for run in runs:
        repeats.setdefault(run.label, []).append(run)
    return repeats


def median_run(repeats: Sequence[RunSeries]) -> RunSeries:
    """Return the run of median total time; it stands for the others."""
    return sorted(repeats, key=lambda run: run.total_s)[(len(repeats) - 1) // 2]


def strong_runs(runs: Iterable[RunSeries]) -> set[int]:
    """Return the `id` of each run that stands for its repeats and is drawn strongly."""
    return {id(median_run(repeats)) for repeats in by_label(runs).values()}


def _whole_ticks(high: float) -> tuple[tuple[float, str], ...]:
    return tuple((value, text) for value, text in linear_ticks(high) if value == int(value))


def _binary_unit(size_bytes: float) -> tuple[str, float]:
    exponent = 0
    while size_bytes >= 1024 ** (exponent + 1) and exponent < len(_BINARY_UNITS) - 1:
        exponent += 1
    return _BINARY_UNITS[exponent], 1024.0**exponent
