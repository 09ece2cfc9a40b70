"""A report of migrations as one HTML page that needs nothing else: no network, no other file.

Labels, reasons and parameters come from journals, which may come from anyone. They are escaped for HTML, again for the
markup that plotly.js understands, and the page itself forbids the browser any request (Content-Security-Policy).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

import msgspec
from plotly.offline import get_plotlyjs

from vmferry import __version__
from vmferry.errors import UsageError
from vmferry.report.journal_runs import clean_text
from vmferry.report.panels import by_label, colour_of_labels, colours_of
from vmferry.report.plot import MAX_POINTS, make_figure, panels_of
from vmferry.report.series import RunSeries
from vmferry.report.summary import RESULT_COLUMNS, configuration
from vmferry.report.tradeoff import Cost, sentence
from vmferry.report.tradeoff_plot import make_tradeoff

MAX_PAGE_BYTES = 5 << 20
_PANEL_REM = 9


@dataclass(frozen=True)
class Row:
    """What a table says of one migration."""

    name: str
    label: str
    """The label of its lines in the figure, if it has any."""
    figures: Mapping[str, str]
    """What its cells say, by the headings of their columns."""
    troubles: Sequence[str] = ()
    """What went wrong or makes the run doubtful. The row is marked, and the reasons stand below the table."""


@dataclass(frozen=True)
class Section:
    """Migrations that belong on one time axis, and what came out of them."""

    heading: str
    verdict: str
    runs: Sequence[RunSeries]
    """The migrations that are drawn; there may be none."""
    rows: Sequence[Row] = ()
    """The rows of the table. If they are left out, each run has one with its figures."""
    costs: Sequence[Cost] = ()
    """What is plotted of time against work; nothing if there are none."""


def page(title: str, sections: Sequence[Section], note: str = "") -> str:
    """Return the page, with a note below its title.

    Of the runs of one label the median one is drawn strongly, the others faintly.
    Raises UsageError if the page would become larger than MAX_PAGE_BYTES.
    """
    text = _template("page").substitute(
        title=escape(clean_text(title)),
        note=f"<p>{escape(note)}</p>" if note else "",
        sections="".join(_section(section, MAX_POINTS // len(sections)) for section in sections),
        plotly=get_plotlyjs(),
        version=__version__,
    )
    if len(text.encode()) > MAX_PAGE_BYTES:
        count = sum(len(section.runs) for section in sections)
        raise UsageError(f"{count} migrations are too many for one page of {MAX_PAGE_BYTES >> 20} MiB; take fewer")
    return text


def _section(section: Section, max_points: int) -> str:
    rows = section.rows or [_row_of(run) for run in section.runs]
    colours = colour_of_labels(section.runs) or colours_of({cost.label: cost.label for cost in section.costs})
    return _template("section").substitute(
        heading=f"<h2>{escape(clean_text(section.heading))}</h2>" if section.heading else "",
        verdict=escape(section.verdict).replace(" %", "&nbsp;%"),
        results=_results(rows, colours),
        troubles=_troubles(rows),
        tradeoff=_tradeoff(section.costs, colours),
        course=_course(section.runs, max_points) if section.runs else "",
    )


def _row_of(run: RunSeries) -> Row:
    figures = {heading: text(run) for heading, text in RESULT_COLUMNS.items()}
    return Row(run.label, run.label, figures, [run.outcome.error] if run.outcome.error else [])


def _tradeoff(costs: Sequence[Cost], colours: Mapping[str, str]) -> str:
    """Return the plot, if there is something to compare."""
    if not (words := sentence(costs)):
        return ""
    figure = make_tradeoff(costs, colours)
    return _template("tradeoff").substitute(sentence=escape(words), figure=_json(figure))


def _course(runs: Sequence[RunSeries], max_points: int) -> str:
    repeated = len(by_label(runs)) < len(runs)
    return _template("course").substitute(
        settings=_settings(runs),
        legend=_legend(runs),
        height=f"{_PANEL_REM * len(panels_of(runs)) + 3}rem",
        note=" Of several runs with one name, the one of median total time is drawn strongly." if repeated else "",
        figure=_json(make_figure(runs, max_points)),
    )


def _template(name: str) -> Template:
    return Template((files("vmferry.report") / f"{name}.html").read_text(encoding="utf-8"))


def _json(figure: dict[str, Any]) -> str:
    """Return JSON that may stand within a script element."""
    return msgspec.json.encode(figure).decode().replace("<", "\\u003c")


def _results(rows: Sequence[Row], colours: Mapping[str, str]) -> str:
    """Return the table. Cells know their columns' headings, with which a narrow screen shows them."""
    head = _line("th", map(escape, ("migration", *rows[0].figures)))
    lines = (
        f"<tr><td>{_name(row, colours)}</td>"
        + "".join(f'<td data-name="{escape(name)}">{escape(text)}</td>' for name, text in row.figures.items())
        + "</tr>"
        for row in rows
    )
    return f'<table class="results">{head}{"".join(lines)}</table>'


def _name(row: Row, colours: Mapping[str, str]) -> str:
    swatch = _swatch(colours[row.label]) if row.label in colours else ""
    return swatch + escape(clean_text(row.name)) + (" <strong>!</strong>" if row.troubles else "")


def _troubles(rows: Sequence[Row]) -> str:
    items = (f"<li>{escape(clean_text(f'{row.name}: {text}'))}</li>" for row in rows for text in row.troubles)
    listed = "".join(items)
    return f'<ul class="troubles">{listed}</ul>' if listed else ""


def _settings(runs: Sequence[RunSeries]) -> str:
    rows = (_line("td", (escape(name), escape(value))) for name, value in configuration(runs).items())
    return f'<table class="settings">{"".join(rows)}</table>'


def _line(cell: str, contents: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{content}</{cell}>' for content in contents)}</tr>"


def _legend(runs: Sequence[RunSeries]) -> str:
    return "".join(
        f'<button aria-pressed="true" data-group="{escape(label)}">{_swatch(colour)}{escape(label)}</button>'
        for label, colour in colour_of_labels(runs).items()
    )


def _swatch(colour: str) -> str:
    return f'<i style="background:{colour}"></i>'
