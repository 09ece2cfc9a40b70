"""The table in which measured migrations stand beside simulated ones."""

import math
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.table import Table

from vmferry.bounds import clean_text
from vmferry.cli.tables import bold, compact_table
from vmferry.migration.outcome import Outcome
from vmferry.report.figures import count_text, error_text, median
from vmferry.study.beside import Cell, errors_by_variant, errors_text
from vmferry.units import GIB, MS_PER_S

_Figure = Callable[[Outcome], float | None]
_SMALL_S = 100.0
_MAX_CELLS, _SHOWN_CELLS = 60, 20
"""Of more cells than the first so many are shown: those that are the furthest off."""
_NAME_CHARACTERS = 30
"""Names of scenarios and settings are folded to this width, or to that of the longest variant."""
_MAX_KEYS = 2
"""Of more settings the values alone are told with each cell, and the keys once."""
_CAPTION = "max: throttle in %. {last}. One figure alone is simulated; nobody measured it."
_LOST, _SENT = ("lost", "lost: guest work in %"), ("sent", "sent: GiB")


def print_cells(console: Console, cells: Iterable[Cell]) -> None:
    """Print one line for each cell, by scenario and settings, and below them how far apart all are."""
    cells = list(cells)
    shown = cells if len(cells) <= _MAX_CELLS else sorted(cells, key=_distance, reverse=True)[:_SHOWN_CELLS]
    console.print(_table(shown))
    if len(keys := _keys(cells)) > _MAX_KEYS:
        console.print(f"Cells are told by {', '.join(keys)}.")
    if len(shown) < len(cells):
        console.print(f"Shown are the {len(shown)} of {len(cells)} cells that are the furthest off; --json has all.")
    for cell in shown:
        if trouble := _trouble(cell):
            console.print(f"! {clean_text(f'{_name(cell)} {cell.variant}')}: {clean_text(trouble)}", soft_wrap=True)
    for errors in (*errors_by_variant(cells), errors_text(cells)):
        if errors:
            console.print(errors)


def _table(cells: list[Cell]) -> Table:
    last, caption = _SENT if any(run.sent_bytes for cell in cells for run in cell.measured) else _LOST
    table = compact_table("Medians: measured|simulated", "variant", "total s", "", "down ms", "syncs", "max", last)
    table.caption = _CAPTION.format(last=caption)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    table.columns[0].max_width = max(_NAME_CHARACTERS, *(len(clean_text(cell.variant)) for cell in cells))
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(_short_name(cell, cells), []).append(cell)
    figures = (*_FIGURES, _sent_gib if last == "sent" else _work_lost)
    shown = [_measured_or_not(figure, cells) for figure in figures]
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
    is_short = figure in (_seconds, _sent_gib) and value is not None and value < _SMALL_S
    return f"{value:.1f}" if is_short else count_text(value)


def _distance(cell: Cell) -> float:
    """Return how far off the simulation of a cell is; what cannot be compared comes before all."""
    return abs(math.log(cell.total_time_ratio)) if cell.total_time_ratio else math.inf


def _error(cell: Cell) -> str:
    return "" if cell.total_time_ratio is None else error_text(cell.total_time_ratio)


def _seconds(run: Outcome) -> float | None:
    return None if run.total_time_ms is None else run.total_time_ms / MS_PER_S


def _sent_gib(run: Outcome) -> float | None:
    return None if run.sent_bytes is None else run.sent_bytes / GIB


def _work_lost(run: Outcome) -> float | None:
    return run.work_lost_percent


_FIGURES: tuple[_Figure, ...] = (
    _seconds,
    lambda run: run.downtime_ms,
    lambda run: run.dirty_sync_count,
    lambda run: run.max_throttle_percent,
)
"""Those of the columns behind the variant but for the last; the error stands behind the first."""


def _trouble(cell: Cell) -> str:
    """Return which runs did not complete, and why; empty if all did."""
    told = []
    for what, runs in (("measured", cell.measured), ("simulated", cell.simulated)):
        failed = [run for run in runs if not run.completed]
        if failed:
            why = f" ({failed[0].error})" if failed[0].error else ""
            told.append(f"{len(failed)} of {len(runs)} {what} runs did not complete{why}")
    return "; ".join(told)


def _keys(cells: Iterable[Cell]) -> list[str]:
    """Return the keys by which the cells differ."""
    return list(dict.fromkeys(key for cell in cells for key in cell.settings))


def _short_name(cell: Cell, cells: Sequence[Cell]) -> str:
    """Return what tells a cell from the others: of many settings the values alone."""
    if len(_keys(cells)) <= _MAX_KEYS:
        return _name(cell)
    one_scenario = len({cell.scenario for cell in cells}) == 1
    return ", ".join([*([] if one_scenario else [cell.scenario]), *cell.settings.values()])


def _name(cell: Cell) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in cell.settings.items())
    return f"{cell.scenario} {settings}".rstrip()
