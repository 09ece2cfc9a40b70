"""A table of migrations that were measured somewhere, as CSV: a line for each run.

Its columns are `scenario` (may be left out where there is but one), `variant`, keys of a scenario by which the runs
differ, such as `load.memory`, and the figures that are known of them. A cell of what is not known is empty.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vmferry.bounds import one_line
from vmferry.errors import UsageError
from vmferry.experiment.quantities import telling
from vmferry.experiment.scenario import read_small_file
from vmferry.migration.outcome import Outcome
from vmferry.migration.status import MigrationStatus

SCENARIO, VARIANT = "scenario", "variant"
FIGURES = (
    "status",
    "total_time_ms",
    "downtime_ms",
    "iteration_count",
    "dirty_sync_count",
    "max_throttle_percent",
    "sent_bytes",
    "work_lost_percent",
    "work_lost_vcpu_s",
)
_SECONDS, _MILLISECONDS = "_s", "_ms"
_IN_SECONDS = {name.removesuffix(_MILLISECONDS) + _SECONDS: name for name in FIGURES if name.endswith(_MILLISECONDS)}
"""Times may be told in seconds as well."""
_KEY = re.compile(r"[\w-]+\.[\w-]+")
_COMMENT = "#"


@dataclass(frozen=True)
class TableLine:
    """One line of a table."""

    scenario: str
    """Its name; empty if the table does not say."""
    settings: tuple[tuple[str, str], ...]
    """Keys of the scenario and what they were in this run."""
    variant: str
    outcome: Outcome


def read_measured(path: Path) -> list[TableLine]:
    """Return the runs in a file. Raises UsageError that names the file, the line and what is wrong with it."""
    text = read_small_file(path, "table").decode(errors="replace")
    with telling(one_line(str(path))):
        return parse_measured(text)


def parse_measured(text: str) -> list[TableLine]:
    """Return the runs in a table. Raises UsageError."""
    lines = list(_lines(text))
    if len(lines) < 2:
        raise UsageError("not a table of measured runs; write a line of column names, and then one for each run")
    (_, names), *rows = lines
    _check_columns(names)
    runs = []
    for number, cells in rows:
        with telling(f"line {number}"):
            runs.append(_run(names, cells))
    return runs


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that says something."""
    rows = csv.reader(text.splitlines())
    try:
        for cells in rows:
            stripped = [one_line(cell.strip()) for cell in cells]
            if any(stripped) and not stripped[0].startswith(_COMMENT):
                yield rows.line_num, stripped
    except csv.Error as error:
        raise UsageError(f"line {rows.line_num}: {error}") from error


def _check_columns(names: Sequence[str]) -> None:
    allowed = (SCENARIO, VARIANT, *FIGURES, *_IN_SECONDS)
    for name in names:
        if name not in allowed and not _KEY.fullmatch(name):
            raise UsageError(f"no column '{name}' is known; there are: {', '.join(allowed)}, and keys like load.memory")
    figures = [_IN_SECONDS.get(name, name) for name in names]
    if double := next((name for name in figures if figures.count(name) > 1), None):
        raise UsageError(f"two columns tell {double}; leave one of them out")
    if VARIANT not in names:
        raise UsageError("no column 'variant'; it says by which variant each run was moved, such as original")


def _run(names: Sequence[str], cells: Sequence[str]) -> TableLine:
    if len(cells) != len(names):
        raise UsageError(f"it has {len(cells)} cells where there are {len(names)} columns")
    known = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
    if VARIANT not in known:
        raise UsageError("it does not say the variant")
    settings = tuple((name, cell) for name, cell in known.items() if _KEY.fullmatch(name))
    return TableLine(known.get(SCENARIO, ""), settings, known[VARIANT], _outcome(known))


def _outcome(known: dict[str, str]) -> Outcome:
    """Return the figures of a run, which completed unless its status says something else."""
    figures = {"status": MigrationStatus.COMPLETED.value, **{name: known[name] for name in FIGURES if name in known}}
    for name, told_as in _IN_SECONDS.items():
        if name in known:
            figures[told_as] = _milliseconds(name, known[name])
    try:
        return msgspec.convert(figures, Outcome, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from error


def _milliseconds(name: str, text: str) -> str:
    try:
        return str(round(float(text) * 1000))
    except (ValueError, OverflowError):
        raise UsageError(f"{name} is '{text}'; write a number of seconds") from None
