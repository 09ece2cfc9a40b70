"""Every run on a page, folded by label: its figures, what was decided in it and why, and where it was read from."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from vmferry.bounds import clean_text
from vmferry.report.figures import spread_text, time_text
from vmferry.report.plot import key
from vmferry.report.runs import Run, by_label
from vmferry.report.series import RunSeries
from vmferry.report.story import Line, headline, shadow_lines, story
from vmferry.report.summary import RESULT_COLUMNS, configuration, limits_text
from vmferry.report.tradeoff import Cost

MAX_LINES = 400
"""How many lines of a run's story a page tells."""


def folded_runs(runs: Sequence[Run], costs: Sequence[Cost], looks: Mapping[str, int]) -> str:
    """Return a part for each label, which opens when it is asked to; the only one is open."""
    groups = by_label(runs)
    unfold = " open" if len(groups) == 1 else ""
    parts = (
        f'<details class="label"{unfold}><summary>{key(f"k{looks[cost.label]}")}{escape(cost.label)}: {_came_to(cost)}'
        f"</summary>{_group(groups[cost.label])}</details>"
        for cost in costs
    )
    return f"<h3>Every run</h3>{''.join(parts)}"


def configuration_html(courses: Sequence[RunSeries]) -> str:
    """Return guest, limits and parameters."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in configuration(courses).items()
    )
    return f"<details><summary>Configuration</summary><table><tbody>{rows}</tbody></table></details>"


def _came_to(cost: Cost) -> str:
    warning = ' <span class="warning">!</span>' if cost.trouble else ""
    time = f", {escape(spread_text(cost.total_time_ms, time_text))}" if cost.completed_count else ""
    return f"{cost.completed_count} of {cost.run_count} completed{time}{warning}"


def _group(runs: Sequence[Run]) -> str:
    names = [run.name or (f"run {number}" if len(runs) > 1 else "the run") for number, run in enumerate(runs, 1)]
    named = list(zip(names, runs, strict=True))
    return _figures(named) + _troubles(named) + "".join(_told(*each, is_only=len(runs) == 1) for each in named)


def _figures(named: Iterable[tuple[str, Run]]) -> str:
    """Return the table. Cells know their columns' headings, with which a narrow screen shows them."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in ("run", *RESULT_COLUMNS))
    rows = "".join(f"<tr>{_name(name, run)}{_cells(run)}</tr>" for name, run in named)
    return f'<table class="runs"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _name(name: str, run: Run) -> str:
    warning = ' <span class="warning">!</span>' if run.remarks else ""
    return f'<th scope="row">{escape(clean_text(name))}{warning}</th>'


def _cells(run: Run) -> str:
    return "".join(
        f'<td data-name="{escape(heading)}">{escape(clean_text(text(run.outcome)))}</td>'
        for heading, text in RESULT_COLUMNS.items()
    )


def _troubles(named: Iterable[tuple[str, Run]]) -> str:
    items = "".join(
        f"<li>{escape(clean_text(f'{name}: {remark}'))}</li>" for name, run in named for remark in run.remarks
    )
    return f'<ul class="troubles">{items}</ul>' if items else ""


def _told(name: str, run: Run, *, is_only: bool) -> str:
    """Return what was decided in a run, and small, where that was read."""
    if not isinstance(run, RunSeries):
        return ""
    limits = limits_text(run)
    parts = [
        f"<p>The operator's limits: {escape(limits)}.</p>" if limits else "",
        _list(story(run)),
        f"<p>What a policy that only looked on would have done</p>{_list(shadow_lines(run))}" if run.shadows else "",
        f'<p class="source">Read from {escape(clean_text(run.source))}.</p>' if run.source else "",
    ]
    heading = f"{escape(clean_text(name))}: {headline(run)}"
    return f"<details{' open' if is_only else ''}><summary>{heading}</summary>{''.join(parts)}</details>"


def _list(lines: Sequence[Line]) -> str:
    items = "".join(
        f"<li><b>{line.time_s:.1f} s</b><span>{escape(line.what)}</span><span>{escape(line.reason)}</span></li>"
        for line in lines[:MAX_LINES]
    )
    more = len(lines) - MAX_LINES
    rest = f'<p class="note">{more} more; `vmferry report` tells all of them.</p>' if more > 0 else ""
    return f'<ol class="story" tabindex="0">{items}</ol>{rest}' if lines else ""
