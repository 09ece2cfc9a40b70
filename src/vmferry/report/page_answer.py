"""The answer at the head of a page's section: for each label its number, its look, and bars of what it costs."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from vmferry.bounds import clean_text
from vmferry.report.bars import BAR_HEIGHT, MEASURES, RANGES, TOTAL_TIME, WORK_LOST, BarFigure
from vmferry.report.plot import key
from vmferry.report.series import RunSeries
from vmferry.report.tradeoff import Cost
from vmferry.units import NS_PER_MS


def answer_table(
    costs: Sequence[Cost],
    looks: Mapping[str, int],
    measures: Sequence[BarFigure] = MEASURES,
    limits: Mapping[BarFigure, float] | None = None,
    ranges: str = RANGES,
) -> str:
    """Return the table, with lines across the bars at limits, and below it what ranges are."""
    numbers, limits = [looks[cost.label] for cost in costs], limits or {}
    bars = [measure.bars(costs, numbers, limits.get(measure)) for measure in measures]
    rows = "".join(
        _row(number, cost, f"k{looks[cost.label]}", zip(measures, own_bars, strict=True))
        for number, (cost, *own_bars) in enumerate(zip(costs, *bars, strict=True), 1)
    )
    headings = ("variant", "completed", *(measure.heading for measure in measures))
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    limited = " Dotted lines are the operator's limits." if limits else ""
    return (
        f'<table class="answer"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="note">{ranges}{limited}</p>'
    )


def common_limits(courses: Iterable[RunSeries]) -> dict[BarFigure, float]:
    """Return the operator's limits on what bars show, if they are the same for all."""
    orders = {run.limits for run in courses}
    if len(orders) != 1 or not (limits := orders.pop()):
        return {}
    found = {
        TOTAL_TIME: None if limits.deadline_ns is None else limits.deadline_ns / NS_PER_MS,
        WORK_LOST: limits.max_guest_loss_percent,
    }
    return {measure: limit for measure, limit in found.items() if limit is not None}


def _row(number: int, cost: Cost, css: str, bars: Iterable[tuple[BarFigure, str]]) -> str:
    cells = "".join(
        f'<td data-name="{escape(measure.heading)}"><svg class="bar" height="{BAR_HEIGHT}">{bar}</svg>'
        f"{escape(measure.told(cost))}</td>"
        for measure, bar in bars
    )
    return (
        f'<tr><th scope="row">{number}{key(css)}{escape(cost.label)}</th>'
        f'<td data-name="completed">{cost.completed_count} of {cost.run_count}{_why(cost)}</td>{cells}</tr>'
    )


def _why(cost: Cost) -> str:
    return f'<p class="note">{escape(clean_text(cost.trouble))}</p>' if cost.trouble else ""
