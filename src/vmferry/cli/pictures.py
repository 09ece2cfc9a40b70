"""Writing files of results: pictures, in the format that the file's name asks for, and texts."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from vmferry.errors import UsageError
from vmferry.report.costs_svg import costs_picture
from vmferry.report.figures import count_text, percent_text, time_text
from vmferry.report.page import Row, Section, page
from vmferry.report.series import RunSeries
from vmferry.report.summary import verdict
from vmferry.report.svg import picture
from vmferry.report.tradeoff import Cost, costs_of
from vmferry.study.record_file import open_public
from vmferry.units import UNKNOWN

_SUFFIXES = (".svg", ".html")


def check_picture(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a name that is no picture's, before anything is worked out; an option's callback."""
    if path is not None and path.suffix not in _SUFFIXES:
        raise UsageError(f"'{path}' is no name for a picture: write one that ends in {' or '.join(_SUFFIXES)}")
    return check_file(context, parameter, path)


def check_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse what no file can be written to, before anything is worked out; an option's callback."""
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"cannot write '{path}': there is no directory '{path.parent}'")
    if path is not None and path.exists() and not path.is_file():
        raise UsageError(f"cannot write '{path}': not a regular file")
    return path


def write_picture(path: Path, title: str, runs: Sequence[RunSeries], *, tradeoff: bool = False) -> None:
    """Write an SVG picture, or an HTML page if the name does not end in `.svg`; with what each label costs."""
    words = verdict(runs)
    if path.suffix == ".svg":
        write_whole(path, picture(title, words, runs, tradeoff=tradeoff))
    else:
        costs = costs_of((run.label, run.outcome) for run in runs) if tradeoff else ()
        write_whole(path, page(title, [Section("", words, runs, costs=costs)]))


def write_costs(path: Path, title: str, groups: Mapping[str, Sequence[Cost]]) -> None:
    """Write what ways to migrate cost, group by group, as an SVG picture or an HTML page."""
    if path.suffix == ".svg":
        write_whole(path, costs_picture(title, groups))
    else:
        sections = [Section(name, "", (), [_cost_row(cost) for cost in costs], costs) for name, costs in groups.items()]
        write_whole(path, page(title, sections))


def _cost_row(cost: Cost) -> Row:
    figures = {
        "total time": time_text(cost.total_time_ms),
        "downtime": time_text(cost.downtime_ms),
        "max throttle": percent_text(cost.max_throttle_percent),
        "guest work lost": percent_text(cost.work_lost_percent),
        "vCPU s kept": count_text(cost.kept_vcpu_s, UNKNOWN),
    }
    return Row(cost.label, cost.label, figures, [cost.trouble] if cost.trouble else [])


def write_whole(path: Path, text: str) -> None:
    """Write a file that others may read, so that it is there whole or not at all.

    Raises UsageError if it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with open(part, "w", encoding="utf-8", opener=open_public) as file:
                file.write(text)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error
