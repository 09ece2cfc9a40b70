"""A report of migrations as one HTML page that needs nothing else: no network, no script, no other file.

Labels, reasons and parameters come from journals, which may come from anyone. They are escaped, and the page forbids
the browser all but its one style sheet (Content-Security-Policy).
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

from vmferry import __version__
from vmferry.bounds import clean_text
from vmferry.errors import UsageError
from vmferry.report.look import LOOKS, looks_of, style
from vmferry.report.page_answer import answer_table, common_limits
from vmferry.report.page_course import course_html, plot_html
from vmferry.report.page_runs import configuration_html, folded_runs
from vmferry.report.runs import Run, variants_of
from vmferry.report.series import RunSeries
from vmferry.report.summary import costs_of_runs, verdict
from vmferry.report.tradeoff import sentence
from vmferry.report.tradeoff_plot import tradeoff_plot

MAX_PAGE_BYTES = 5 << 20


@dataclass(frozen=True)
class Section:
    """Migrations that are compared with each other; of some the course may be known, a RunSeries, of others not."""

    heading: str
    runs: Sequence[Run]


def page(title: str, sections: Sequence[Section], note: str = "") -> str:
    """Return the page, with a note below its title. Raises UsageError if it would be larger than MAX_PAGE_BYTES."""
    told = f'<p class="note">{escape(note)}</p>' if note else ""
    text = whole_page(title, told + "".join(map(_section, sections)))
    if len(text.encode()) > MAX_PAGE_BYTES:
        count = sum(len(section.runs) for section in sections)
        raise UsageError(f"{count} migrations are too many for one page of {MAX_PAGE_BYTES >> 20} MiB; take fewer")
    return text


def whole_page(title: str, body: str) -> str:
    """Return a page with this body, which is HTML, below its title."""
    sheet = _style()
    return Template(_text("page.html")).substitute(
        title=escape(clean_text(title)),
        body=body,
        digest=base64.b64encode(hashlib.sha256(sheet.encode()).digest()).decode(),
        style=sheet,
        version=__version__,
    )


def _section(section: Section) -> str:
    """Tell the answer first: in a sentence, as bars, as a plot of what each costs; then the course and every run."""
    runs = section.runs
    looks, costs = looks_of(variants_of(runs)), costs_of_runs(runs)
    courses = [run for run in runs if isinstance(run, RunSeries)]
    compared = sentence(costs)
    parts = [
        f"<h2>{escape(clean_text(section.heading))}</h2>" if section.heading else "",
        f'<p class="verdict">{escape(verdict(runs)).replace(" %", "&nbsp;%")}</p>',
        answer_table(costs, looks, limits=common_limits(courses)),
        course_html(courses, looks) if courses else "",
        f"<h3>Time against the guest's work</h3><p>{escape(compared)}</p>{plot_html(tradeoff_plot(costs, looks))}"
        if compared
        else "",
        folded_runs(runs, costs, looks),
        configuration_html(courses) if courses else "",
    ]
    return f"<section>{''.join(parts)}</section>"


def _style() -> str:
    """Return the style sheet; a name in a legend that is not ticked takes its lines away."""
    hidden = ",".join(f"section:has(.legend input.k{n}:not(:checked)) .plot .k{n}" for n in LOOKS)
    return f"{style()}{_text('page.css')}{hidden}{{display:none}}\n"


def _text(name: str) -> str:
    return (files("vmferry.report") / name).read_text(encoding="utf-8")
