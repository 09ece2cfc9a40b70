"""Writing pictures of results, in the format that the file's name asks for."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vmferry.cli.files import write_whole
from vmferry.report.costs_svg import costs_picture
from vmferry.report.page import Section, page
from vmferry.report.runs import Run
from vmferry.report.series import RunSeries
from vmferry.report.svg import picture


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
