"""The measures of our SVG pictures, and what all their parts are made of.

They are narrow and their letters are large, so that they can be read on a telephone as well.
"""

from collections.abc import Iterable, Mapping, Sequence

from vmferry.bounds import clean_text
from vmferry.report.bars import BAR_HEIGHT, MEASURES, BarFigure
from vmferry.report.look import style
from vmferry.report.plot import MARGIN, Plot, text_at
from vmferry.report.tradeoff import Cost

WIDTH = 640
LEFT, RIGHT = MARGIN, 26
"""Margins of a plot."""
PANEL_GAP = 24
ROW = 22
_BAR_WIDTH = 230
_STYLE = "text{font:15px sans-serif}.heading{font-size:19px;font-weight:bold}.title{font-weight:bold}"


def document(title: str, height: float, parts: Iterable[str]) -> str:
    """Return the picture that these elements make."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        f'<style>{_STYLE}{style()}</style><rect class="paper" width="100%" height="100%"/>',
        text_at(LEFT, 28, clean_text(title), 'class="heading"'),
    )
    return "\n".join([*head, *parts, "</svg>", ""])


def placed(plots: Iterable[Plot], top: float) -> tuple[list[str], float]:
    """Return plots under each other, and where the next one would begin."""
    parts = []
    for plot in plots:
        box = f'x="{LEFT}" y="{top}" width="{WIDTH - LEFT - RIGHT}" height="{plot.height}" overflow="visible"'
        parts.append(f"<svg {box}>{''.join(plot.parts)}</svg>")
        top += plot.height + PANEL_GAP
    return parts, top


def answer(
    costs: Sequence[Cost], looks: Mapping[str, int], top: float, measures: Sequence[BarFigure] = MEASURES
) -> tuple[list[str], float]:
    """Return what each label costs as bars with their figures, and where they end. Labels are numbered from 1."""
    bars = {measure: measure.bars(costs, [looks[cost.label] for cost in costs]) for measure in measures}
    parts = []
    for number, cost in enumerate(costs):
        parts.append(f'<path class="line k{looks[cost.label]}" d="M{LEFT} {top - 5}h28"/>')
        count = f", {cost.completed_count} of {cost.run_count} completed" if cost.run_count > 1 or cost.trouble else ""
        parts.append(text_at(LEFT + 36, top, f"{number + 1} {clean_text(cost.label)}{count}", 'class="title"'))
        if cost.trouble:
            top += ROW
            parts.append(text_at(LEFT + 36, top, clean_text(cost.trouble)))
        for measure in measures if cost.completed_count else ():
            top += ROW
            box = f'x="{LEFT}" y="{top - BAR_HEIGHT + 2}" width="{_BAR_WIDTH}" height="{BAR_HEIGHT}"'
            parts.append(f"<svg {box}>{bars[measure][number]}</svg>")
            parts.append(text_at(LEFT + _BAR_WIDTH + 12, top, f"{measure.told(cost)}{measure.of_what}"))
        top += ROW + 8
    return parts, top


def legend(entries: Mapping[str, str], top: float) -> tuple[list[str], float]:
    """Return what lines are, by their CSS classes, and where that ends."""
    parts = []
    for css, text in entries.items():
        parts += [f'<path class="line {css}" d="M{LEFT} {top - 5}h28"/>', text_at(LEFT + 36, top, text)]
        top += ROW
    return parts, top
