"""The figure of a report page, as plotly.js takes it: panels under each other that share one time axis."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from vmferry.report.panels import (
    BANDWIDTH,
    DIRTY_RATE,
    ITERATIONS,
    MEASURED_SPEED,
    REMAINING,
    SPEED,
    THROTTLE,
    Axis,
    Panel,
    colour_of_labels,
    strong_runs,
)
from vmferry.report.series import RunSeries, Series

PANELS = (MEASURED_SPEED, SPEED, THROTTLE, REMAINING, DIRTY_RATE, BANDWIDTH, ITERATIONS)
MAX_POINTS_PER_LINE = 1500
MAX_POINTS = 12_000
"""How many points all lines of a page may have together, so that they take about 200 KiB at most."""
LAYOUT: Mapping[str, Any] = {
    "showlegend": False,
    "autosize": True,
    "margin": {"l": 58, "r": 8, "t": 4, "b": 40},
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "font": {"family": "system-ui, sans-serif", "size": 12},
    "dragmode": "zoom",
}
"""How all plots of a page look."""
_TITLE_SHARE = 0.24
"""The share of a panel's height that its title takes."""
_REPEAT_OPACITY = 0.3
_HOVER_CHARACTERS = 45


def panels_of(runs: Sequence[RunSeries]) -> list[Panel]:
    """Return the panels in which there is something to draw."""
    return [panel for panel in PANELS if panel.has_lines(runs)]


def make_figure(runs: Sequence[RunSeries], max_points: int = MAX_POINTS) -> dict[str, Any]:
    """Return data of about that many points, and layout.

    Of the runs of one label the median one is drawn strongly, the others faintly.
    """
    panels = panels_of(runs)
    axes = [panel.axis(runs) for panel in panels]
    lengths = [len(line) for panel in panels for run in runs for line in panel.lines(run)]
    line_points = _line_points(lengths, max_points)
    data = [
        trace
        for number, (panel, axis) in enumerate(zip(panels, axes, strict=True), 1)
        for trace in _panel_traces(panel, axis, number, runs, line_points)
    ]
    return {"data": data, "layout": _layout(panels, axes, max((run.total_s for run in runs), default=1))}


def _line_points(lengths: Sequence[int], max_points: int) -> int:
    """Return how many points a line may have; short lines leave more to the long ones."""
    line_points = MAX_POINTS_PER_LINE
    while line_points > 4 and sum(min(length, line_points) for length in lengths) > max_points:
        line_points = line_points * 9 // 10
    return max(4, line_points)


def _panel_traces(
    panel: Panel, axis: Axis, number: int, runs: Sequence[RunSeries], max_points: int
) -> Iterator[dict[str, Any]]:
    colours = colour_of_labels(runs)
    strong = strong_runs(runs)
    for run in runs:
        look = {
            "type": "scatter",
            "yaxis": f"y{number}",
            "name": escape(run.label, quote=False),
            "legendgroup": run.label,
            "opacity": 1 if id(run) in strong else _REPEAT_OPACITY,
        }
        line = {"color": colours[run.label], "width": 1.5 if id(run) in strong else 1, "shape": panel.shape.value}
        for series in panel.lines(run):
            hover = f"%{{y:.4~g}} {axis.unit}"
            yield (
                look
                | _points(series.thinned(max_points), axis)
                | {
                    "mode": "lines",
                    "line": line,
                    "hovertemplate": hover,
                }
            )
        if panel is THROTTLE and id(run) in strong:
            yield look | _decisions(run) | {"mode": "markers", "marker": {"color": line["color"], "size": 6}}
        if panel is ITERATIONS and len(run.background_syncs):
            marker = {"color": line["color"], "size": 7, "symbol": "x-thin-open"}
            syncs = _points(run.background_syncs.thinned(max_points), axis)
            yield look | syncs | {"mode": "markers", "marker": marker, "hovertemplate": "background sync"}


def _points(series: Series, axis: Axis) -> dict[str, Any]:
    values = series.values / axis.divisor
    if axis.log:
        values = values.clip(axis.low)
    return {
        "x": series.seconds.round(3).tolist(),
        "y": [float(f"{value:.4g}") for value in values.tolist()],
    }


def _decisions(run: RunSeries) -> dict[str, Any]:
    """Mark where the throttle was changed."""
    changes = [d for d in run.decisions or () if d.throttle_percent != d.old_throttle_percent]
    return {
        "x": [round(decision.time_s, 3) for decision in changes],
        "y": [decision.throttle_percent for decision in changes],
        "text": [_narrow(decision.reason) for decision in changes],
        "hovertemplate": "%{text}<extra></extra>",
    }


def _narrow(text: str) -> str:
    return "<br>".join(escape(line, quote=False) for line in textwrap.wrap(text, _HOVER_CHARACTERS))


def _layout(panels: Sequence[Panel], axes: Sequence[Axis], total_s: float) -> dict[str, Any]:
    layout: dict[str, Any] = {
        **LAYOUT,
        "hovermode": "x unified",
        "annotations": [],
        "xaxis": {
            "title": {"text": "seconds since the migration began"},
            "range": [0, total_s],
            "anchor": f"y{len(panels)}",
            "showspikes": True,
            "spikemode": "across",
            "spikethickness": 1,
            "hoverformat": ".3~f",
            "ticksuffix": " s",
        },
    }
    height = 1 / max(1, len(panels))
    for number, (panel, axis) in enumerate(zip(panels, axes, strict=True), 1):
        bottom = 1 - number * height
        top = bottom + height * (1 - _TITLE_SHARE)
        layout[f"yaxis{number}"] = _y_axis(axis) | {"domain": [max(0, bottom), top]}
        unit = f", {axis.unit}" if axis.unit else ""
        layout["annotations"].append(_title(f"<b>{panel.title}</b>{unit}", top))
    return layout


def _y_axis(axis: Axis) -> dict[str, Any]:
    values, texts = zip(*axis.ticks, strict=True) if axis.ticks else ((), ())
    return {
        "tickvals": values,
        "ticktext": texts,
        "fixedrange": True,
        "zeroline": False,
        "anchor": "x",
        "type": "log" if axis.log else "linear",
        "range": _range(axis),
    }


def _range(axis: Axis) -> list[float]:
    """Return the ends, with some room so that a line at an end is seen; plotly.js wants logarithms of log axes."""
    if axis.log:
        return [math.log10(axis.low), math.log10(axis.high)]
    room = 0.04 * (axis.high - axis.low)
    return [axis.low - room, axis.high + room]


def _title(text: str, top: float) -> dict[str, Any]:
    place = {"xref": "paper", "yref": "paper", "x": 0, "y": top, "xanchor": "left", "yanchor": "bottom"}
    return place | {"text": text, "showarrow": False, "align": "left"}
