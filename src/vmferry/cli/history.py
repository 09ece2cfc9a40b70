"""`vmferry history`: the migrations that agents remember."""

import csv
import io
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
from rich.table import Table

from vmferry.agent.remembered_run import RememberedRun
from vmferry.bounds import one_line
from vmferry.cli.agent_extra import needing_agent_extra
from vmferry.cli.database_option import database_option, open_memory
from vmferry.cli.files import write_whole
from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.tables import compact_table, terminal
from vmferry.errors import UsageError
from vmferry.report.figures import error_text, percent_text, time_text
from vmferry.units import UNKNOWN

if TYPE_CHECKING:
    from vmferry.agent.recording import Foretold

_MS_PER_DAY = 86_400_000


class _Date(click.DateTime):
    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"'{value}' is no date; write one such as 2026-11-01, or 2026-11-01T12:30", param, ctx)


_DATE = _Date(["%Y-%m-%d", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])
_FORMULA = tuple("=+-@\t\r\n\uff1d\uff0b\uff0d\uff20")
"""What a spreadsheet takes a cell for a formula by, the full-width ones too."""


@click.command("history", short_help="List the migrations that agents remember.")
@database_option
@click.option("--vm", metavar="PATTERN|UUID", help="Only of VMs with such a name, in which * and ? stand for any.")
@click.option("--host", help="Only from this host.")
@click.option("--status", help="Only those that ended like this, such as completed, failed, cancelled or unknown.")
@click.option("--policy", metavar="PATTERN", help="Only those that such a variant or policy decided, or would have.")
@click.option("--days", type=click.IntRange(1, 36500), help="Only those of so many days before now.")
@click.option("--since", type=_DATE, help="Only those that began then or later, by this host's time zone.")
@click.option("--until", type=_DATE, help="Only those that began before then.")
@click.option("--limit", type=click.IntRange(1, 10000), default=50, show_default=True, help="At most so many.")
@click.option("--forecasts", is_flag=True, help="Show what was foretold of each, and what came of it.")
@json_option("Print one JSON object for each migration.", RememberedRun)
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a report of them as a page.")
@click.option("--csv", "as_csv", is_flag=True,
              help="Print them as CSV; a text that is a formula to a spreadsheet gets a ' before it.")  # fmt: skip
def command(
    database: str | None,
    vm: str | None,
    host: str | None,
    status: str | None,
    policy: str | None,
    days: int | None,
    since: datetime | None,
    until: datetime | None,
    limit: int,
    forecasts: bool,
    as_json: bool,
    as_csv: bool,
    html: Path | None,
) -> None:
    """List migrations, the newest first. `vmferry report --id` tells all there is of one of them.

    A migration of which nobody saw the end is unknown in the table; elsewhere `status` is the state seen last.
    """
    if as_json + as_csv + forecasts > 1:
        raise UsageError("--json, --csv and --forecasts are ways to print them; give one (--json and --csv have all)")
    if days and since:
        raise UsageError("--days and --since both say from when on; give one of them")
    with needing_agent_extra():
        from vmferry.agent.reports import history_page
        from vmferry.agent.store import Wanted, find
    wanted = Wanted(
        vm=vm,
        host=host,
        status=status,
        policy=policy,
        since_ms=int(time.time() * 1000) - days * _MS_PER_DAY if days else _ms(since),
        until_ms=_ms(until),
        limit=limit,
    )
    with open_memory(database) as connection:
        rows = list(find(connection, wanted))
        if html and rows:
            write_whole(html, history_page(connection, rows))
    if as_json:
        for row in rows:
            print_record(row)
    elif as_csv:
        click.echo(_csv(rows), nl=False)
    elif rows:
        terminal().print(_forecasts(rows) if forecasts else _figures(rows))
    else:
        click.echo("no such migration is remembered")


def _figures(rows: Sequence[RememberedRun]) -> Table:
    table = _table(4, "mode", "status", "total time", "downtime", "work lost")
    for row in rows:
        table.add_row(
            *_whose(row),
            row.mode,
            row.state,
            time_text(row.total_time_ms),
            time_text(row.downtime_ms),
            percent_text(row.work_lost_percent),
        )
    return table


def _forecasts(rows: Sequence[RememberedRun]) -> Table:
    """Return within which time half, and nine of ten, such migrations were foretold to be over, and how long it took.

    That is from the time on at which it was foretold, for each.
    """
    table = _table(3, "after", "half in", "9 of 10 in", "really", "off by")
    for row in rows:
        table.add_row(*_whose(row), *_compared(row.forecast, row.left_ms))
    return table


def _compared(foretold: "Foretold | None", left_ms: int | None) -> tuple[str, ...]:
    if foretold is None:
        return ("-",) * 5
    median_ms = foretold.median_left_ms
    off = error_text(left_ms / median_ms) if median_ms and left_ms is not None else UNKNOWN
    return (*map(time_text, (foretold.elapsed_ms, median_ms, foretold.most_left_ms, left_ms)), off)


def _table(text_columns: int, *others: str) -> Table:
    table = compact_table("", "id", "began", "VM", *others)
    for column in table.columns[1 : text_columns + 1]:
        column.justify = "left"
    table.columns[2].no_wrap = False
    return table


def _whose(row: RememberedRun) -> tuple[str, str, str]:
    began = datetime.fromtimestamp(row.began_ms / 1000).strftime("%Y-%m-%d %H:%M")
    return str(row.id), began, one_line(row.vm_name)


def _csv(rows: Sequence[RememberedRun]) -> str:
    """Return a table in which what is not known is empty, and no text is a formula."""
    records = [msgspec.to_builtins(row) for row in rows]
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    for record in records:
        writer.writerow({name: cell(value) for name, value in record.items()})
    return out.getvalue()


def cell(value: object) -> object:
    """Return what stands for a value in CSV."""
    if isinstance(value, dict | list):
        return msgspec.json.encode(value).decode()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _ms(time: datetime | None) -> int | None:
    return None if time is None else round(time.timestamp() * 1000)
