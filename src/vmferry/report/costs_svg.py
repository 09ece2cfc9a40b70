"""A static picture of what ways to migrate cost: for each guest and link, total time against the guest's work."""

import textwrap
from collections.abc import Mapping, Sequence

from vmferry.bounds import clean_text
from vmferry.report.look import looks_of
from vmferry.report.plot import text_at
from vmferry.report.runs import Run, variants_of
from vmferry.report.summary import costs_of_runs, verdict
from vmferry.report.svg_parts import LEFT, PANEL_GAP, ROW, answer, document, placed
from vmferry.report.tradeoff import sentence
from vmferry.report.tradeoff_plot import tradeoff_plot

_TOP = 64
_CHARACTERS = 72


def costs_picture(title: str, groups: Mapping[str, Sequence[Run]]) -> str:
    """Return the picture, with an answer and a plot for each group, whose names say what its runs were tried on."""
    parts: list[str] = []
    top: float = _TOP
    for heading, runs in groups.items():
        looks, costs = looks_of(variants_of(runs)), costs_of_runs(runs)
        parts.append(text_at(LEFT, top, clean_text(heading), 'class="title"'))
        for line in textwrap.wrap(f"{verdict(runs)} {sentence(costs)}", _CHARACTERS):
            top += ROW
            parts.append(text_at(LEFT, top, line))
        bars, top = answer(costs, looks, top + ROW + ROW // 2)
        drawn, top = placed([tradeoff_plot(costs, looks)] if sentence(costs) else [], top)
        parts += [*bars, *drawn]
        top += PANEL_GAP
    return document(title, top, parts)
