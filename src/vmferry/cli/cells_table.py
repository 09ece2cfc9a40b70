"""The table in which measured migrations stand beside simulated ones."""

from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table

from vmferry.bounds import clean_text
from vmferry.cli.tables import bold, compact_table
from vmferry.migration.outcome import Outcome
from vmferry.report.figures import count_text, median
from vmferry.study.beside import Cell, errors_text
from vmferry.units import MS_PER_S

_Figure = Callable[[Outcome], float | None]
_SMALL_S = 100.0
_CAPTION = "max: throttle in %. lost: guest work in %. One figure alone is simulated; nobody measured it."


def print_cells(console: Console, cells: Iterable[Cell]) -> None:
    """Print one line for each cell, by scenario and settings, and below them how far apart all are."""
    cells = list(cells)
    console.print(_table(cells))
    for cell in cells:
        if trouble := _trouble(cell):
            console.print(f"! {clean_text(f'{_name(cell)} {cell.variant}')}: {clean_text(trouble)}", soft_wrap=True)
    if errors := errors_text(cells):
        console.print(errors)


def _table(cells: list[Cell]) -> Table:
    table = compact_table("Medians: measured|simulated", "variant", "total s", "", "down ms", "syncs", "max", "lost")
    table.caption = _CAPTION
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_name(cell), []).append(cell)
    shown = [_measured_or_not(figure, cells) for figure in _FIGURES]
    for name, group in groups.items():
        table.add_row(bold(clean_text(name)))
        for cell in group:
            total, *others = (text(cell) for text in shown)
            table.add_row(clean_text(cell.variant), total, _error(cell), *others)
    return table


def _measured_or_not(figure: _Figure, cells: Iterable[Cell]) -> Callable[[Cell], str]:
    """Return how a figure is told in each of the cells: simulated alone, if nobody has measured it in any."""
    if all(figure(run) is None for cell in cells for run in cell.measured):
        return lambda cell: _median(figure, cell.simulated)
    return lambda cell: f"{_median(figure, cell.measured)}|{_median(figure, cell.simulated)}"


def _median(figure: _Figure, runs: Iterable[Outcome]) -> str:
    value = median(figure(run) for run in runs if run.completed)
    is_short = figure is _seconds and value is not None and value < _SMALL_S
    return f"{value:.1f}" if is_short else count_text(value)


def _error(cell: Cell) -> str:
    return "" if cell.total_time_ratio is None else f"{cell.total_time_ratio - 1:+.0%}"


def _seconds(run: Outcome) -> float | None:
    return None if run.total_time_ms is None else run.total_time_ms / MS_PER_S


_FIGURES: tuple[_Figure, ...] = (
    _seconds,
    lambda run: run.downtime_ms,
    lambda run: run.dirty_sync_count,
    lambda run: run.max_throttle_percent,
    lambda run: run.work_lost_percent,
)
"""Those of the columns behind the variant; the error stands behind the first."""


def _trouble(cell: Cell) -> str:
    """Return which runs did not complete, and why; empty if all did."""
    told = []
    for what, runs in (("measured", cell.measured), ("simulated", cell.simulated)):
        failed = [run for run in runs if not run.completed]
        if failed:
            why = f" ({failed[0].error})" if failed[0].error else ""
            told.append(f"{len(failed)} of {len(runs)} {what} runs did not complete{why}")
    return "; ".join(told)


def _name(cell: Cell) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in cell.settings.items())
    return f"{cell.scenario} {settings}".rstrip()
