"""`vmferry report`: what happened in recorded migrations, as text, JSON, page or picture."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import click

from vmferry.cli.agent_extra import needing_agent_extra
from vmferry.cli.database_option import database_option, open_memory
from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.pictures import check_picture, write_picture, write_whole
from vmferry.cli.tables import warn
from vmferry.errors import UsageError
from vmferry.migration.journal import read_journal, split_migrations
from vmferry.report.journal_runs import clean_text, run_series
from vmferry.report.page import Section, page
from vmferry.report.records import RecordedRun, recorded_run
from vmferry.report.series import RunSeries
from vmferry.report.summary import verdict
from vmferry.report.text_report import text_report

MAX_MIGRATIONS = 1000
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("report", short_help="Tell what happened in recorded migrations, and draw it.")
@click.argument("journals", nargs=-1, type=_FILE, metavar="JOURNAL...")
@click.option("--id", "number", type=click.IntRange(1, (1 << 31) - 1),
              help="Instead of a JOURNAL: a migration that an agent remembers (`vmferry history`).")  # fmt: skip
@database_option
@click.option("--picture", type=_FILE, callback=check_picture, help="Draw them; FILE ends in .svg.")
@click.option("--html", type=_FILE, help="Write a page that opens offline: course, table, configuration.")
@json_option("Print one JSON object for each migration.", RecordedRun)
def command(
    journals: tuple[Path, ...],
    number: int | None,
    database: str | None,
    picture: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Tell of each migration in the JOURNALs what came out, what it cost the guest, and why it was slowed.

    The option --journal of `vmferry vm`, `migrate`, `watch` and `simulate` writes them. A file may hold several
    migrations; ended by .gz, it is unpacked.
    """
    if bool(journals) == (number is not None) or (database and number is None):
        raise UsageError("give either JOURNALs, or --id of a migration that an agent remembers, maybe with --database")
    runs = list(_read_all(journals)) if number is None else _remembered(number, database)
    title = "Migrations" if len(runs) > 1 else f"Migration {runs[0].label}"
    if picture:
        write_picture(picture, title, runs)
    if html:
        write_whole(html, page(title, [Section("", verdict(runs), runs)]))
    if as_json:
        for run in runs:
            print_record(recorded_run(run))
    elif picture or html:
        click.echo(verdict(runs))
    else:
        click.echo(text_report(runs))


def _read_all(journals: tuple[Path, ...]) -> Iterator[RunSeries]:
    names = Counter(path.name for path in journals)
    for path in journals:
        runs = _read(path)
        for number, run in enumerate(runs, 1):
            name = clean_text(path.name if names[path.name] == 1 else str(path))
            yield replace(run, label=f"{name}{_position(number, runs)}: {run.variant}")


def _remembered(number: int, database: str | None) -> list[RunSeries]:
    with needing_agent_extra():
        from vmferry.agent.reports import remembered_runs
    with open_memory(database) as connection:
        return remembered_runs(connection, number)


def _position(place: int, runs: list[RunSeries]) -> str:
    return f" #{place}" if len(runs) > 1 else ""


def _read(path: Path) -> list[RunSeries]:
    migrations = islice(split_migrations(read_journal(path, warn)), MAX_MIGRATIONS + 1)
    runs = [run_series(entries, str(path)) for entries in migrations]
    if not runs:
        raise UsageError(f"{path}: no migration began in it; give the journal of a source")
    if len(runs) > MAX_MIGRATIONS:
        raise UsageError(f"{path}: more than {MAX_MIGRATIONS} migrations; that is too many to report")
    return runs
