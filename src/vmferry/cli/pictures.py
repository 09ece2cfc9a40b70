"""Writing files of results: pictures, in the format that the file's name asks for, and texts."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from vmferry.errors import UsageError
from vmferry.report.costs_svg import costs_picture
from vmferry.report.page import Section, page
from vmferry.report.runs import Run
from vmferry.report.series import RunSeries
from vmferry.report.svg import picture
from vmferry.study.record_file import open_public

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
    """Write an SVG picture, or an HTML page if the name does not end in `.svg`.

    With `tradeoff` the picture, like every page, has a plot of what each label costs.
    """
    if path.suffix == ".svg":
        write_whole(path, picture(title, runs, tradeoff=tradeoff))
    else:
        write_whole(path, page(title, [Section("", runs)]))


def write_costs(path: Path, title: str, groups: Mapping[str, Sequence[Run]]) -> None:
    """Write what runs cost, group by group, as an SVG picture or an HTML page."""
    if path.suffix == ".svg":
        write_whole(path, costs_picture(title, groups))
    else:
        write_whole(path, page(title, [Section(name, runs) for name, runs in groups.items()]))


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
