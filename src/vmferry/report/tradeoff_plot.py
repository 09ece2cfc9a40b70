"""The plot of what several ways to migrate a guest cost, as plotly.js takes it: time against work."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from vmferry.report.figures import time_text
from vmferry.report.plot import LAYOUT
from vmferry.report.tradeoff import Cost, unbeaten

_MS_PER_S = 1000
_FRONT = "#7F868C"
_FILLED, _OPEN = "circle", "circle-open"


def make_tradeoff(costs: Sequence[Cost], colours: Mapping[str, str]) -> dict[str, Any]:
    """Return data and layout; those that no other beats are filled and joined by steps."""
    return {"data": list(_traces(costs, colours)), "layout": _layout()}


def _traces(costs: Sequence[Cost], colours: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    best = unbeaten(costs)
    yield {
        "type": "scatter",
        "mode": "lines",
        "line": {"shape": "hv", "dash": "dash", "width": 1, "color": _FRONT},
        "x": [cost.pair[0] / _MS_PER_S for cost in best],
        "y": [cost.pair[1] for cost in best],
        "hoverinfo": "skip",
    }
    for cost in costs:
        if cost.is_comparable:
            time_ms, vcpu_s = cost.pair
            symbol = _FILLED if cost in best else _OPEN
            yield {
                "type": "scatter",
                "mode": "markers",
                "name": escape(cost.label, quote=False),
                "legendgroup": cost.label,
                "marker": {"size": 11, "color": colours[cost.label], "symbol": symbol},
                "x": [time_ms / _MS_PER_S],
                "y": [vcpu_s],
                "text": [f"{time_text(time_ms)}, downtime {time_text(cost.downtime_ms)}<br>{vcpu_s:.0f} vCPU s"],
                "hovertemplate": "%{text}",
            }


def _layout() -> dict[str, Any]:
    return {
        **LAYOUT,
        "hovermode": "closest",
        "xaxis": {"title": {"text": "total time"}, "rangemode": "tozero", "ticksuffix": " s", "zeroline": False},
        "yaxis": {"title": {"text": "vCPU s kept from working"}, "rangemode": "tozero", "zeroline": False},
    }
