"""A table of migrations that were measured somewhere, as CSV: a line for each run.

Its columns are `scenario` (may be left out where there is but one), `variant`, `driven`, keys of a scenario by which
the runs differ, such as `load.memory`, and the figures that are known of them. The unit of a column's numbers may stand
behind its name, as in `total time (s)` or `link.rate [Mbit/s]`. A cell of what is not known is empty.

What spreadsheets make of a table is read, too: a byte order mark, semicolons or tabs, and then decimal commas.
"""

import csv
import io
import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vmferry.bounds import one_line
from vmferry.convergence.variants import full_name
from vmferry.errors import UsageError
from vmferry.experiment.quantities import telling
from vmferry.experiment.scenario import read_small_file
from vmferry.migration.outcome import Outcome
from vmferry.migration.status import MigrationStatus
from vmferry.units import NS_PER_MS, parse_duration_ns, parse_rate, parse_size

SCENARIO, VARIANT, DRIVEN = "scenario", "variant", "driven"
_MAX_TABLE_BYTES = 64 << 20
_COMMENT = "#"
_UNKNOWN = ("-", "?", "na", "n/a", "nan", "none", "null")
"""What people write in cells of what is not known."""
_KEY = re.compile(r"[\w-]+\.[\w-]+")
_WITH_UNIT = re.compile(r"(?P<name>.*?)\s*[(\[](?P<unit>.*)[)\]]")
_NUMBER = re.compile(r"\d+(\.\d+)?")
_WHOLE = re.compile(r"(-?\d+)\.0+")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_UNITS = {"sec": "s", "seconds": "s", "msec": "ms", "minutes": "min", "bytes": "B", "kbytes": "KiB", "percent": "%"}
"""What else people call a unit."""


def _ms(text: str) -> str:
    return str(round(parse_duration_ns(text) / NS_PER_MS))


def _bytes(text: str) -> str:
    return str(parse_size(text))


def _percent(text: str) -> str:
    return text.removesuffix("%").strip()


_QUANTITIES: dict[str, tuple[str, Callable[[str], str], str]] = {
    "total_time": ("total_time_ms", _ms, "ms, s or min"),
    "downtime": ("downtime_ms", _ms, "ms or s"),
    "sent": ("sent_bytes", _bytes, "bytes, MiB or GB"),
    "max_throttle": ("max_throttle_percent", _percent, "%"),
    "work_lost": ("work_lost_percent", _percent, "%"),
}
"""Figures that have a unit: where each goes, how its text is read, and in which units it may be told."""
_PLAIN = ("status", "iteration_count", "dirty_sync_count", "work_lost_vcpu_s")
_SUFFIXES = ("ms", "s", "bytes", "percent")
_TOLD = "total_time_s, total time (min), downtime_ms, sent (GB), max_throttle_percent, work_lost_percent"


@dataclass(frozen=True)
class TableLine:
    """One line of a table."""

    number: int
    """In its file."""
    scenario: str
    """Its name; empty if the table does not say."""
    driven: str
    """The modelled QEMU that was driven; empty for what the scenario says."""
    settings: tuple[tuple[str, str], ...]
    """Keys of the scenario and what they were in this run."""
    variant: str
    outcome: Outcome


@dataclass(frozen=True)
class MeasuredTable:
    """All that a table tells."""

    lines: list[TableLine]
    unused: tuple[str, ...] = ()
    """The names of columns that tell nothing that can be simulated or compared."""

    def of(self, variants: Sequence[str]) -> list[TableLine]:
        """Return the lines of these variants, or all of them if none is named. Raises UsageError if there are none."""
        wanted = [full_name(name) for name in variants]
        lines = [line for line in self.lines if full_name(line.variant) in wanted or not wanted]
        if not lines:
            names = ", ".join(dict.fromkeys(line.variant for line in self.lines))
            raise UsageError(f"the measured table has no runs of {', '.join(wanted)}; it has runs of: {names}")
        return lines


@dataclass(frozen=True)
class _Column:
    """What a column's name says."""

    title: str
    name: str
    unit: str

    @classmethod
    def of(cls, title: str) -> "_Column":
        match = _WITH_UNIT.fullmatch(title)
        name, unit = (match["name"], match["unit"].strip()) if match else (title, "")
        if not _KEY.fullmatch(name):
            name = re.sub(r"[\s-]+", "_", name.lower())
            base, _, suffix = name.rpartition("_")
            if base in _QUANTITIES and suffix in _SUFFIXES:
                name, unit = base, unit or suffix
        return cls(title, name, _UNITS.get(unit.lower(), unit))

    @property
    def is_key(self) -> bool:
        return bool(_KEY.fullmatch(self.name))

    @property
    def is_used(self) -> bool:
        return self.is_key or self.name in (SCENARIO, VARIANT, DRIVEN, *_PLAIN, *_QUANTITIES)

    def text(self, cell: str) -> str:
        """Return what a cell says, with the column's unit."""
        return f"{cell}{self.unit}" if self.unit and _NUMBER.fullmatch(cell) else cell


def read_measured(path: Path) -> MeasuredTable:
    """Return the runs in a file. Raises UsageError that names the file, the line and what is wrong with it."""
    data = read_small_file(path, "table", _MAX_TABLE_BYTES)
    encoding = "utf-16" if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig"
    with telling(one_line(str(path))):
        return parse_measured(data.decode(encoding, errors="replace"))


def parse_measured(text: str) -> MeasuredTable:
    """Return the runs in a table. Raises UsageError."""
    lines = list(_lines(text))
    if len(lines) < 2:
        raise UsageError("not a table of measured runs; write a line of column names, and then one for each run")
    (_, titles), *rows = lines
    columns = [_Column.of(title) for title in titles]
    _check_columns(columns)
    runs = []
    for number, cells in rows:
        with telling(f"line {number}"):
            runs.append(_run(number, columns, cells))
    return MeasuredTable(runs, tuple(column.title for column in columns if column.title and not column.is_used))


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the number and the cells of each line that says something."""
    delimiter = _delimiter(text)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for cells in rows:
            stripped = [_cell(cell, delimiter) for cell in cells]
            if any(stripped) and not stripped[0].startswith(_COMMENT):
                yield rows.line_num, stripped
    except csv.Error as error:
        raise UsageError(f"line {rows.line_num}: {error}") from error


def _delimiter(text: str) -> str:
    """Return what stands between the names of the columns."""
    lines = (line.strip() for line in text.splitlines())
    names = next((line for line in lines if line.strip(",;") and not line.startswith(_COMMENT)), "")
    return max(",;\t", key=names.count)


def _cell(cell: str, delimiter: str) -> str:
    """Return what a cell says; empty if it says that nobody knows."""
    text = one_line(cell.strip())
    if delimiter != ",":
        text = _DECIMAL_COMMA.sub(".", text)
    return "" if text.lower() in _UNKNOWN else _WHOLE.sub(r"\1", text) if _WHOLE.fullmatch(text) else text


def _check_columns(columns: Sequence[_Column]) -> None:
    names = [column.name for column in columns if column.is_used]
    if double := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"two columns tell {double}; leave one of them out")
    if VARIANT not in names:
        raise UsageError("no column 'variant'; it says by which variant each run was moved, such as original")
    if not {*_PLAIN, *_QUANTITIES} & set(names):
        raise UsageError(f"no column tells what was measured; there are: {_TOLD}, {', '.join(_PLAIN)}")


def _run(number: int, columns: Sequence[_Column], cells: Sequence[str]) -> TableLine:
    if len(cells) < len(columns) or any(cells[len(columns) :]):
        raise UsageError(f"it has {len(cells)} cells where there are {len(columns)} columns")
    known = {column.name: (column, cell) for column, cell in zip(columns, cells, strict=False) if cell}
    if VARIANT not in known:
        raise UsageError("it does not say the variant")
    scenario, driven, variant = (known[name][1] if name in known else "" for name in (SCENARIO, DRIVEN, VARIANT))
    settings = tuple((name, _setting(column, cell)) for name, (column, cell) in known.items() if column.is_key)
    return TableLine(number, scenario, driven, settings, variant, _outcome(known))


def _setting(column: _Column, cell: str) -> str:
    """Return the value of a scenario's key; those of parameters are numbers in the units of QMP."""
    text = column.text(cell)
    if not column.unit or not column.name.startswith("parameters."):
        return text
    with telling(column.title):
        return _ms(text) if column.unit in ("ms", "s", "min") else _percent(text) if "%" in text else _rate(text)


def _rate(text: str) -> str:
    return str(parse_rate(text))


def _outcome(known: dict[str, tuple[_Column, str]]) -> Outcome:
    """Return the figures of a run, which completed unless its status says something else."""
    figures = {"status": MigrationStatus.COMPLETED.value}
    for name, (column, cell) in known.items():
        if name in _PLAIN:
            figures[name] = cell
        elif name in _QUANTITIES:
            field, read, _ = _QUANTITIES[name]
            figures[field] = _figure(column, cell, read)
    try:
        return msgspec.convert(figures, Outcome, strict=False)
    except msgspec.ValidationError as error:
        raise UsageError(str(error)) from error


def _figure(column: _Column, cell: str, read: Callable[[str], str]) -> str:
    text = column.text(cell)
    if _NUMBER.fullmatch(text):
        units = _QUANTITIES[column.name][2]
        raise UsageError(f"{column.title} is '{cell}', of no unit; name the column {column.name} ({units})")
    try:
        return read(text)
    except UsageError:
        unit = column.unit or _QUANTITIES[column.name][2]
        raise UsageError(f"{column.title} is '{cell}'; write a number of {unit}") from None
