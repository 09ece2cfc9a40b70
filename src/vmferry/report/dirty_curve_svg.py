"""The plot of a guest's dirty curve beside what the link carries in the same time, as a part of a static picture."""

from collections.abc import Iterator

import numpy as np

from vmferry.convergence.curve import DirtyCurve
from vmferry.report.panels import linear_ticks, size_text
from vmferry.report.svg_parts import LEFT, RIGHT, ROW, WIDTH, grid_line, text_at

CURVE_HEIGHT = 220
TITLE = "Distinct memory that the guest writes in so much time"
_NS_PER_S = 1_000_000_000
_ROOM = 1.1
_POINTS = 120
_GUEST, _LINK, _FITS = "#2f6fb3", "#7f868c", "#b3552f"


def curve_plot(curve: DirtyCurve, bytes_per_s: float, fits_bytes: float, top: float) -> list[str]:
    """Return the elements of the plot below `top`, with its legend under it.

    `fits_bytes` is what may be left when the guest moves. The dots are what was measured.
    """
    longest_s = max(point.duration_ns for point in curve.points()) / _NS_PER_S * _ROOM
    seconds = np.linspace(0.0, longest_s, _POINTS)
    written = curve.distinct_bytes(seconds * _NS_PER_S)
    most_bytes = max(float(written[-1]), fits_bytes, 1.0) * _ROOM
    scale = _Scale(longest_s, most_bytes, top)
    link_s = min(longest_s, most_bytes / bytes_per_s)
    guest = "".join(scale.step(*point) for point in zip(seconds.tolist(), written.tolist(), strict=True))
    dots = (scale.place(point.duration_ns / _NS_PER_S, point.distinct_bytes) for point in curve.points())
    return [
        *scale.frame(),
        f'<path class="line" stroke="{_GUEST}" d="M{guest[1:]}"/>',
        *(f'<circle cx="{x}" cy="{y}" r="4" fill="{_GUEST}"/>' for x, y in dots),
        _line(scale, _LINK, (0.0, 0.0), (link_s, link_s * bytes_per_s)),
        _line(scale, _FITS, (0.0, fits_bytes), (longest_s, fits_bytes)),
        *_legend(top + CURVE_HEIGHT + 2 * ROW),
    ]


LEGEND_HEIGHT = 4 * ROW
"""What the legend and the ticks take below the plot."""


class _Scale:
    """Where a time and a size lie."""

    def __init__(self, longest_s: float, most_bytes: float, top: float) -> None:
        self._longest_s = longest_s
        self._most_bytes = most_bytes
        self._top = top

    def place(self, seconds: float, size_bytes: float) -> tuple[float, float]:
        """Return the place of a point."""
        x = LEFT + (WIDTH - LEFT - RIGHT) * seconds / self._longest_s
        return round(x, 1), round(self._top + CURVE_HEIGHT * (1 - size_bytes / self._most_bytes), 1)

    def step(self, seconds: float, size_bytes: float) -> str:
        """Return the part of a path that goes on to there."""
        x, y = self.place(seconds, size_bytes)
        return f"L{x} {y}"

    def frame(self) -> Iterator[str]:
        """Yield title, grid and ticks."""
        yield text_at(LEFT, self._top - 10, TITLE, 'class="panel"')
        unit = 2.0 ** (10 * int(np.log2(self._most_bytes) // 10))
        for value, _ in linear_ticks(self._most_bytes / unit, 5):
            _, y = self.place(0, value * unit)
            yield grid_line(LEFT, y, WIDTH - RIGHT, y)
            yield text_at(LEFT - 8, y + 5, size_text(value * unit) if value else "0", 'text-anchor="end"')
        for seconds, text in linear_ticks(self._longest_s, 6):
            x, _ = self.place(seconds, 0)
            yield grid_line(x, self._top, x, self._top + CURVE_HEIGHT)
            yield text_at(x, self._top + CURVE_HEIGHT + 19, f"{text} s", 'text-anchor="middle"')


def _line(scale: _Scale, colour: str, start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = scale.place(*start), scale.place(*end)
    return f'<path class="line" stroke="{colour}" stroke-dasharray="6 4" d="M{x1} {y1}L{x2} {y2}"/>'


def _legend(top: float) -> Iterator[str]:
    entries = ((0, _GUEST, "the guest"), (130, _LINK, "the link carries"), (310, _FITS, "fits the downtime limit"))
    for right, colour, text in entries:
        x = LEFT + right
        yield f'<path stroke="{colour}" stroke-width="4" d="M{x} {top - 5}h24"/>'
        yield text_at(x + 32, top, text)
