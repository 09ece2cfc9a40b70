"""`vmferry history`: the migrations that agents remember."""

import csv
import io
import time
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import click
import msgspec

from vmferry.bounds import one_line
from vmferry.cli.agent_extra import needing_agent_extra
from vmferry.cli.database_option import database_option, open_memory
from vmferry.cli.tables import compact_table, terminal
from vmferry.errors import UsageError
from vmferry.migration.outcome import Outcome
from vmferry.report.figures import percent_text, time_text

if TYPE_CHECKING:
    from vmferry.agent.store import Remembered

_MS_PER_DAY = 86_400_000


@click.command("history", short_help="List the migrations that agents remember.")
@database_option
@click.option("--vm", metavar="PATTERN|UUID", help="Only of VMs with such a name, in which * and ? stand for any.")
@click.option("--host", help="Only from this host.")
@click.option("--status", help="Only those that ended like this, such as completed, failed or cancelled.")
@click.option("--days", type=click.IntRange(1, 36500), help="Only those of so many days before now.")
@click.option("--limit", type=click.IntRange(1, 10000), default=50, show_default=True, help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each migration.")
@click.option("--csv", "as_csv", is_flag=True, help="Print them as CSV.")
def command(
    database: str | None,
    vm: str | None,
    host: str | None,
    status: str | None,
    days: int | None,
    limit: int,
    as_json: bool,
    as_csv: bool,
) -> None:
    """List migrations, the newest first. `vmferry report --id` tells all there is of one of them.

    A migration of which nobody saw the end is unknown in the table; elsewhere `status` is the state seen last.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv are two ways to print them; give one")
    with needing_agent_extra():
        from vmferry.agent.store import Wanted, find
    since_ms = None if days is None else int(time.time() * 1000) - days * _MS_PER_DAY
    with open_memory(database) as connection:
        rows = list(find(connection, Wanted(vm=vm, host=host, status=status, since_ms=since_ms, limit=limit)))
    if as_json:
        for row in rows:
            click.echo(msgspec.json.encode(row.flat()))
    elif as_csv:
        click.echo(_csv(rows), nl=False)
    else:
        _print(rows)


def _print(rows: Sequence["Remembered"]) -> None:
    if not rows:
        click.echo("no such migration is remembered")
        return
    table = compact_table("", "id", "began", "VM", "mode", "status", "total time", "downtime", "work lost")
    for column in table.columns[1:5]:
        column.justify = "left"
    table.columns[2].no_wrap = False
    for row in rows:
        figures = row.outcome or Outcome(status=row.status)
        table.add_row(
            str(row.id),
            datetime.fromtimestamp(row.began_ms / 1000).strftime("%Y-%m-%d %H:%M"),
            one_line(row.vm_name),
            row.mode,
            row.state,
            time_text(figures.total_time_ms),
            time_text(figures.downtime_ms),
            percent_text(figures.work_lost_percent),
        )
    terminal().print(table)


def _csv(rows: Sequence["Remembered"]) -> str:
    """Return a table in which what is not known is empty."""
    records = [row.flat() for row in rows]
    names = list(dict.fromkeys(name for record in records for name in record))
    out = io.StringIO()
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    for record in records:
        writer.writerow({name: _cell(value) for name, value in record.items()})
    return out.getvalue()


def _cell(value: object) -> object:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
