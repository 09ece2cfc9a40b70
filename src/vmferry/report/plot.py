"""Plots as SVG that is as wide as there is room.

Places on the horizontal axis are shares of the width. Only paths are stretched; letters and dots keep their shape, so
the same plot is read on a telephone, on a wide screen and in a picture of its own. Texts of the vertical axis stand
left of the plot, MARGIN wide.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

from vmferry.report.axes import Axis, linear_ticks
from vmferry.report.series import Series, Shape

MARGIN = 74
"""What the texts of a vertical axis take, in pixels."""
TOP, PANEL_HEIGHT, BOTTOM = 24, 160, 26
"""A plot's title, its area, and the texts of its horizontal axis."""
_UNITS = 1000
"""The width of what is stretched."""
_TICKS = 5


@dataclass(frozen=True)
class Plot:
    """A plot that is drawn."""

    title: str
    height: int
    parts: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Area:
    """Where values lie in a plot. Horizontally they go from 0 to `width`, which is shown in `unit`."""

    axis: Axis
    width: float
    unit: str = "s"
    height: int = PANEL_HEIGHT
    parts: list[str] = field(default_factory=list)
    """What was drawn so far."""

    def plot(self, title: str) -> Plot:
        """Return what was drawn, in its frame."""
        unit = f", {self.axis.unit}" if self.axis.unit else ""
        parts = [text_at(0, TOP - 9, title + unit, 'class="title"'), *self._frame(), *self.parts]
        return Plot(title, TOP + self.height + BOTTOM, parts)

    def share(self, value: float) -> str:
        """Return the horizontal place of a value, as a share of the width."""
        return f"{100 * min(max(value / self.width, 0), 1):.2f}%"

    def y(self, value: float) -> float:
        """Return the vertical place of a value, which the axis divides."""
        return round(TOP + self._depth(value / self.axis.divisor), 1)

    def line(self, series: Series, shape: Shape, css: str) -> None:
        """Draw a line in the colour of a CSS class, such as that of a look."""
        self._stretched(f'<path class="line {css}" d="{self._path(series, shape)}"/>')

    def band(self, periods: Iterable[tuple[float, float, float, float]], css: str) -> None:
        """Draw for each period, from one place to another, the room between a low and a high value."""
        boxes = "".join(
            f"M{self._x(start)} {self._down(low)}V{self._down(high)}H{self._x(end)}V{self._down(low)}z"
            for start, end, low, high in periods
        )
        self._stretched(f'<path class="band {css}" d="{boxes}"/>')

    def steps(self, places: Sequence[tuple[float, float]], css: str) -> None:
        """Draw a line that holds each value until the next place."""
        self._stretched(f'<path class="{css}" d="{self._path(Series.of(places), Shape.STEPS)}"/>')

    def vertical(self, value: float, css: str, text: str = "", row: int = 0) -> None:
        """Draw a line from top to bottom, with a text at its upper end, in one of several rows."""
        x = self.share(value)
        self.parts.append(f'<line class="{css}" x1="{x}" y1="{TOP}" x2="{x}" y2="{TOP + self.height}"/>')
        if text:
            left = value > 0.6 * self.width
            place = f'dx="{-5 if left else 5}" text-anchor="{"end" if left else "start"}" class="{css.split()[0]}-text"'
            self.parts.append(text_at(x, TOP + 13 + 14 * row, text, place))

    def horizontal(self, value: float, text: str) -> None:
        """Draw a limit, with a text above its left end."""
        y = self.y(value)
        self.parts.append(f'<line class="limit" x1="0" y1="{y}" x2="100%" y2="{y}"/>')
        self.parts.append(text_at(4, y - 5 if y > TOP + 20 else y + 14, text, 'class="limit-text"'))

    def dot(self, place: tuple[float, float], css: str, tip: str = "") -> None:
        """Draw a dot, which tells something to who points at it."""
        tip = f"<title>{escape(tip)}</title>" if tip else ""
        where = f'cx="{self.share(place[0])}" cy="{self.y(place[1])}"'
        self.parts.append(f'<circle class="{css}" {where} r="{3 if css.startswith("dot") else 5}">{tip}</circle>')

    def _frame(self) -> Iterator[str]:
        for value, text in self.axis.ticks:
            y = round(TOP + self._depth(value), 1)
            yield f'<line class="grid" x1="0" y1="{y}" x2="100%" y2="{y}"/>'
            yield text_at(-8, y + 4, text, 'text-anchor="end"')
        for value, text in linear_ticks(self.width, _TICKS):
            x = self.share(value)
            yield f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{TOP + self.height}"/>'
            yield text_at(x, TOP + self.height + 18, f"{text} {self.unit}", 'text-anchor="middle"')

    def _stretched(self, path: str) -> None:
        box = f'viewBox="0 0 {_UNITS} {self.height}" preserveAspectRatio="none" overflow="visible"'
        self.parts.append(f'<svg y="{TOP}" width="100%" height="{self.height}" {box}>{path}</svg>')

    def _x(self, value: float) -> float:
        return round(_UNITS * value / self.width, 1)

    def _down(self, value: float) -> float:
        return round(self._depth(value / self.axis.divisor), 1)

    def _depth(self, value: float) -> float:
        """Return how far below the top a value of the axis lies."""
        low, high, value = self.axis.low, self.axis.high, max(value, self.axis.low)
        if self.axis.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.height * (1 - (value - low) / (high - low))

    def _path(self, series: Series, shape: Shape) -> str:
        words: list[str] = []
        for place, value in series.points():
            x, y = self._x(place), self._down(value)
            if not words:
                words.append(f"M{x} {y}")
            elif shape is Shape.STEPS:
                words.append(f"H{x}V{y}")
            elif shape is Shape.PERIODS:
                words.append(f"V{y}H{x}")
            else:
                words.append(f"L{x} {y}")
        return "".join(words)


def text_at(x: float | str, y: float, text: str, attributes: str = "") -> str:
    """Return a text, whose characters may be any."""
    return f'<text x="{x}" y="{y}" {attributes}>{escape(text)}</text>'


def key(css: str) -> str:
    """Return a short piece of the line of a CSS class, for legends."""
    return f'<svg class="key" width="28" height="12"><path class="line {css}" d="M0 6H28"/></svg>'
