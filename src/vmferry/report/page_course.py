"""The course of migrations on a page: its plots, and a legend that hides and shows their lines."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape

from vmferry.report.course import course_plots, drawn
from vmferry.report.panels import ALL_PANELS
from vmferry.report.plot import Plot, key
from vmferry.report.runs import by_label
from vmferry.report.series import RunSeries

_MARKS = (
    "A numbered line from top to bottom is the moment at which a guest was stopped to be moved; dotted lines are the "
    "operator's limits. Where samples scatter, the line is the median of each 60th of the time, and the band goes from "
    "quartile to quartile. What the guest dirties counts a page once between two looks at it."
)


def course_html(courses: Sequence[RunSeries], looks: Mapping[str, int]) -> str:
    """Return legend and plots."""
    shown = drawn(courses)
    groups = by_label(courses)
    which = " Of several runs of one name, the one of median total time is drawn." if len(groups) < len(courses) else ""
    if len(shown) < len(groups):
        which += f" Of {len(groups)} names, {len(shown)} are drawn: the fastest that completed."
    plots = "".join(map(plot_html, course_plots(courses, ALL_PANELS, looks)))
    return (
        f"<h3>Course</h3>{_legend({run.label: looks[run.label] for run in shown}, looks) if len(shown) > 1 else ''}"
        f'<div class="plots">{plots}</div><p class="note">{_MARKS}{which}{_sources(shown)}</p>'
    )


def plot_html(plot: Plot) -> str:
    """Return a plot as an element that is as wide as there is room."""
    name = escape(plot.title)
    return f'<svg class="plot" height="{plot.height}" role="img" aria-label="{name}">{"".join(plot.parts)}</svg>'


def _legend(shown: Mapping[str, int], looks: Mapping[str, int]) -> str:
    numbers = {label: number for number, label in enumerate(looks, 1)}
    labels = (
        f'<label><input type="checkbox" class="k{look}" checked>'
        f"{numbers[label]}{key(f'k{look}')}{escape(label)}</label>"
        for label, look in shown.items()
    )
    return f'<fieldset class="legend" aria-label="lines that are shown">{"".join(labels)}</fieldset>'


def _sources(runs: Iterable[RunSeries]) -> str:
    names = ", ".join(dict.fromkeys(escape(run.source) for run in runs if run.source))
    return f" Drawn from {names}." if names else ""
