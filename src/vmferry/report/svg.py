"""A static picture of migrations as SVG: remaining memory and guest speed on one time axis.

It is narrow and its letters are large, so that it can be read on a telephone as well.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence
from html import escape

from vmferry.report.figures import median, percent_text, time_text
from vmferry.report.journal_runs import clean_text
from vmferry.report.panels import (
    MEASURED_SPEED,
    REMAINING,
    SPEED,
    THROTTLE,
    Axis,
    Panel,
    Shape,
    by_label,
    colour_of_labels,
    linear_ticks,
    strong_runs,
)
from vmferry.report.series import RunSeries, Series

WIDTH = 640
MAX_POINTS_PER_LINE = 800
_LEFT, _RIGHT, _TOP = 74, 26, 64
_PANEL_HEIGHT, _PANEL_GAP = 160, 60
_ROW = 22
_VERDICT_CHARACTERS = 72
_STYLE = (
    "text{font:15px sans-serif;fill:#1c2126}.title{font-size:19px;font-weight:bold}.panel{font-weight:bold}"
    ".grid{stroke:#d9dee3}.line{fill:none;stroke-width:2;stroke-linejoin:round}.faint{opacity:.3;stroke-width:1}"
)


def picture(title: str, verdict: str, runs: Sequence[RunSeries]) -> str:
    """Return the picture. Of the runs of one label the median one is drawn strongly, the others faintly."""
    panels = [panel for panel in panels_of(runs) if panel.has_lines(runs)]
    colours = colour_of_labels(runs)
    sentences = textwrap.wrap(verdict, _VERDICT_CHARACTERS)
    legend_top = _TOP + _ROW * len(sentences)
    top = legend_top + _ROW * len(colours) + _PANEL_GAP - 10
    height = top + len(panels) * (_PANEL_HEIGHT + _PANEL_GAP) + 10
    total_s = max((run.total_s for run in runs), default=0) or 1
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>',
        _text(_LEFT, 28, clean_text(title), 'class="title"'),
        *(_text(_LEFT, _TOP - 8 + _ROW * number, sentence) for number, sentence in enumerate(sentences)),
        *_legend(colours, by_label(runs), legend_top + 6),
    ]
    for number, panel in enumerate(panels):
        area = _Area(panel.axis(runs), top + number * (_PANEL_HEIGHT + _PANEL_GAP), total_s)
        parts += [*area.frame(panel.title), *_lines(panel, area, runs, colours)]
    return "\n".join([*parts, "</svg>", ""])


def panels_of(runs: Sequence[RunSeries]) -> tuple[Panel, ...]:
    """Return the panels; the throttle has one of its own where the guest's speed is not just what it leaves."""
    if MEASURED_SPEED.has_lines(runs):
        return REMAINING, THROTTLE, MEASURED_SPEED, SPEED
    return REMAINING, SPEED


class _Area:
    """Where one panel lies in the picture."""

    def __init__(self, axis: Axis, top: float, total_s: float) -> None:
        self.axis = axis
        self._top = top
        self._total_s = total_s

    def x(self, seconds: float) -> float:
        """Return the place of a time."""
        return round(_LEFT + (WIDTH - _LEFT - _RIGHT) * seconds / self._total_s, 1)

    def y(self, value: float) -> float:
        """Return the place of a value that was divided by the axis' divisor."""
        low, high, value = self.axis.low, self.axis.high, max(value, self.axis.low)
        if self.axis.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(self._top + _PANEL_HEIGHT * (1 - (value - low) / (high - low)), 1)

    def frame(self, title: str) -> Iterator[str]:
        """Yield title, grid and ticks."""
        unit = f", {self.axis.unit}" if self.axis.unit else ""
        yield _text(_LEFT, self._top - 10, title + unit, 'class="panel"')
        for value, text in self.axis.ticks:
            yield _line(_LEFT, self.y(value), WIDTH - _RIGHT, self.y(value))
            yield _text(_LEFT - 8, self.y(value) + 5, text, 'text-anchor="end"')
        bottom = self._top + _PANEL_HEIGHT
        for seconds, text in linear_ticks(self._total_s, 6):
            yield _line(self.x(seconds), self._top, self.x(seconds), bottom)
            yield _text(self.x(seconds), bottom + 19, f"{text} s", 'text-anchor="middle"')

    def path(self, series: Series, shape: Shape) -> str:
        """Return what an SVG path element draws."""
        words: list[str] = []
        for seconds, value in series.points():
            x, y = self.x(seconds), self.y(value / self.axis.divisor)
            if not words:
                words.append(f"M{x} {y}")
            elif shape is Shape.STEPS:
                words.append(f"H{x}V{y}")
            elif shape is Shape.PERIODS:
                words.append(f"V{y}H{x}")
            else:
                words.append(f"L{x} {y}")
        return "".join(words)


def _lines(panel: Panel, area: _Area, runs: Sequence[RunSeries], colours: dict[str, str]) -> Iterator[str]:
    strong = strong_runs(runs)
    for run in runs:
        look = "line" if id(run) in strong else "line faint"
        for series in panel.lines(run):
            path = area.path(series.thinned(MAX_POINTS_PER_LINE), panel.shape)
            yield f'<path class="{look}" stroke="{colours[run.label]}" d="{path}"/>'


def _legend(colours: dict[str, str], repeats: dict[str, list[RunSeries]], top: float) -> Iterator[str]:
    for number, (label, colour) in enumerate(colours.items()):
        y = top + _ROW * number
        yield f'<path stroke="{colour}" stroke-width="4" d="M{_LEFT} {y - 5}h24"/>'
        yield _text(_LEFT + 32, y, f"{label}{_outcome(repeats[label])}")


def _outcome(repeats: Sequence[RunSeries]) -> str:
    outcomes = [run.outcome for run in repeats]
    if not all(each.completed for each in outcomes):
        return ""
    time_ms = median(each.total_time_ms for each in outcomes)
    return f": {time_text(time_ms)}, {percent_text(median(each.work_lost_percent for each in outcomes))} lost"


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="grid" d="M{x1} {y1}L{x2} {y2}"/>'


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x}" y="{y}" {attributes}>{escape(text)}</text>'
