"""A static picture of migrations as SVG: remaining memory and guest speed on one time axis.

It is narrow and its letters are large, so that it can be read on a telephone as well.
"""

import math
import textwrap
from collections.abc import Iterator, Sequence

from vmferry.report.figures import median, percent_text, time_text
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
from vmferry.report.svg_parts import LEFT, PANEL_GAP, PANEL_HEIGHT, RIGHT, ROW, WIDTH, document, grid_line, text_at
from vmferry.report.tradeoff import costs_of, sentence
from vmferry.report.tradeoff_svg import TRADEOFF_HEIGHT, tradeoff_plot

MAX_POINTS_PER_LINE = 800
_TOP = 64
_VERDICT_CHARACTERS = 72


def picture(title: str, verdict: str, runs: Sequence[RunSeries], *, tradeoff: bool = False) -> str:
    """Return the picture. Of the runs of one label the median one is drawn strongly, the others faintly.

    With `tradeoff`, what each label costs is drawn above them.
    """
    panels = [panel for panel in panels_of(runs) if panel.has_lines(runs)]
    colours = colour_of_labels(runs)
    costs = costs_of((run.label, run.outcome) for run in runs) if tradeoff else []
    sentences = textwrap.wrap(f"{verdict} {sentence(costs)}", _VERDICT_CHARACTERS)
    legend_top = _TOP + ROW * len(sentences)
    plot_top = legend_top + ROW * len(colours) + PANEL_GAP - 10
    plot = tradeoff_plot(costs, colours, plot_top) if sentence(costs) else []
    top = plot_top + (TRADEOFF_HEIGHT + PANEL_GAP) * bool(plot)
    height = top + len(panels) * (PANEL_HEIGHT + PANEL_GAP) + 10
    total_s = max((run.total_s for run in runs), default=0) or 1
    parts = [
        *(text_at(LEFT, _TOP - 8 + ROW * number, sentence) for number, sentence in enumerate(sentences)),
        *_legend(colours, by_label(runs), legend_top + 6, numbered=bool(plot)),
        *plot,
    ]
    for number, panel in enumerate(panels):
        area = _Area(panel.axis(runs), top + number * (PANEL_HEIGHT + PANEL_GAP), total_s)
        parts += [*area.frame(panel.title), *_lines(panel, area, runs, colours)]
    return document(title, height, parts)


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
        return round(LEFT + (WIDTH - LEFT - RIGHT) * seconds / self._total_s, 1)

    def y(self, value: float) -> float:
        """Return the place of a value that was divided by the axis' divisor."""
        low, high, value = self.axis.low, self.axis.high, max(value, self.axis.low)
        if self.axis.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return round(self._top + PANEL_HEIGHT * (1 - (value - low) / (high - low)), 1)

    def frame(self, title: str) -> Iterator[str]:
        """Yield title, grid and ticks."""
        unit = f", {self.axis.unit}" if self.axis.unit else ""
        yield text_at(LEFT, self._top - 10, title + unit, 'class="panel"')
        for value, text in self.axis.ticks:
            yield grid_line(LEFT, self.y(value), WIDTH - RIGHT, self.y(value))
            yield text_at(LEFT - 8, self.y(value) + 5, text, 'text-anchor="end"')
        bottom = self._top + PANEL_HEIGHT
        for seconds, text in linear_ticks(self._total_s, 6):
            yield grid_line(self.x(seconds), self._top, self.x(seconds), bottom)
            yield text_at(self.x(seconds), bottom + 19, f"{text} s", 'text-anchor="middle"')

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


def _legend(
    colours: dict[str, str], repeats: dict[str, list[RunSeries]], top: float, *, numbered: bool
) -> Iterator[str]:
    for number, (label, colour) in enumerate(colours.items()):
        y = top + ROW * number
        yield f'<path stroke="{colour}" stroke-width="4" d="M{LEFT} {y - 5}h24"/>'
        name = f"{number + 1} {label}" if numbered else label
        yield text_at(LEFT + 32, y, f"{name}{_outcome(repeats[label])}")


def _outcome(repeats: Sequence[RunSeries]) -> str:
    outcomes = [run.outcome for run in repeats]
    if stayed := [each for each in outcomes if not each.completed]:
        return f": {stayed[0].status}"
    time_ms = median(each.total_time_ms for each in outcomes)
    return f": {time_text(time_ms)}, {percent_text(median(each.work_lost_percent for each in outcomes))} lost"
