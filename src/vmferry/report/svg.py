"""A static picture of migrations as SVG: what came out, and remaining memory and guest speed on one time axis."""

import textwrap
from collections.abc import Sequence

from vmferry.report.course import course_plots
from vmferry.report.look import looks_of
from vmferry.report.panels import FEW_PANELS, FEW_PANELS_MEASURED, MEASURED_SPEED
from vmferry.report.plot import text_at
from vmferry.report.runs import variants_of
from vmferry.report.series import RunSeries
from vmferry.report.summary import costs_of_runs, verdict
from vmferry.report.svg_parts import LEFT, ROW, answer, document, placed
from vmferry.report.tradeoff import sentence
from vmferry.report.tradeoff_plot import tradeoff_plot

_TOP = 56
_CHARACTERS = 72


def picture(title: str, runs: Sequence[RunSeries], *, tradeoff: bool = False) -> str:
    """Return the picture. With `tradeoff`, what each label costs is plotted as well."""
    looks, costs = looks_of(variants_of(runs)), costs_of_runs(runs)
    compared = sentence(costs) if tradeoff else ""
    lines = textwrap.wrap(f"{verdict(runs)} {compared}", _CHARACTERS)
    texts = [text_at(LEFT, _TOP + ROW * number, line) for number, line in enumerate(lines)]
    bars, top = answer(costs, looks, _TOP + ROW * len(lines) + ROW // 2)
    panels = FEW_PANELS_MEASURED if MEASURED_SPEED.has_lines(runs) else FEW_PANELS
    plots = [tradeoff_plot(costs, looks)] if compared else []
    drawn, top = placed([*plots, *course_plots(runs, panels, looks)], top)
    return document(title, top, [*texts, *bars, *drawn])
