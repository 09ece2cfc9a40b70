"""A static picture of what ways to migrate cost: for each guest and link, total time against the guest's work."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence

from vmferry.report.figures import count_text, time_text
from vmferry.report.journal_runs import clean_text
from vmferry.report.panels import colours_of
from vmferry.report.svg_parts import LEFT, PANEL_GAP, ROW, document, text_at
from vmferry.report.tradeoff import Cost, sentence
from vmferry.report.tradeoff_svg import TRADEOFF_HEIGHT, tradeoff_plot

_TOP = 64
_SENTENCE_CHARACTERS = 72


def costs_picture(title: str, groups: Mapping[str, Sequence[Cost]]) -> str:
    """Return the picture, with a plot for each group, whose names say what its ways were tried on."""
    parts: list[str] = []
    top = _TOP
    for heading, costs in groups.items():
        colours = colours_of({cost.label: cost.label for cost in costs})
        texts = _texts(heading, costs)
        parts += [text_at(LEFT, top + ROW * line, text, look) for line, (text, look) in enumerate(texts)]
        top += ROW * len(texts)
        parts += [part for line, cost in enumerate(costs) for part in _entry(line, cost, colours, top)]
        top += ROW * len(costs)
        if sentence(costs):
            parts += tradeoff_plot(costs, colours, top + PANEL_GAP // 2)
            top += PANEL_GAP // 2 + TRADEOFF_HEIGHT
        top += PANEL_GAP
    return document(title, top, parts)


def _texts(heading: str, costs: Sequence[Cost]) -> list[tuple[str, str]]:
    words = sentence(costs) or "There is nothing to compare: fewer than two ways moved the guest every time."
    lines = textwrap.wrap(words, _SENTENCE_CHARACTERS)
    return [(clean_text(heading), 'class="panel"'), *((line, "") for line in lines)]


def _entry(line: int, cost: Cost, colours: Mapping[str, str], top: int) -> Iterator[str]:
    y = top + ROW * line
    yield f'<path stroke="{colours[cost.label]}" stroke-width="4" d="M{LEFT} {y - 5}h24"/>'
    told = f"{time_text(cost.total_time_ms)}, {count_text(cost.kept_vcpu_s)} vCPU s"
    yield text_at(LEFT + 32, y, f"{line + 1} {clean_text(cost.label)}: {clean_text(cost.trouble) or told}")
