"""`vmferry report`: what happened in recorded migrations, as text, JSON, page or picture."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import click

from vmferry.bounds import clean_text
from vmferry.cli.agent_extra import needing_agent_extra
from vmferry.cli.database_option import database_option, open_memory
from vmferry.cli.files import check_picture, write_whole
from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.pictures import write_picture
from vmferry.cli.tables import warn
from vmferry.errors import UsageError
from vmferry.migration.journal import read_journal, split_migrations
from vmferry.report.journal_runs import run_series
from vmferry.report.labels import labelled, title_of
from vmferry.report.page import Section, page
from vmferry.report.records import RecordedRun, recorded_run
from vmferry.report.series import RunSeries
from vmferry.report.summary import verdict
from vmferry.report.text_report import text_report

MAX_MIGRATIONS = 1000
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command("report", short_help="Tell what happened in recorded migrations, and draw it.")
@click.argument("journals", nargs=-1, type=_FILE, metavar="JOURNAL...")
@click.option("--id", "numbers", type=click.IntRange(1, (1 << 31) - 1), multiple=True,
              help="Instead of JOURNALs: one that an agent remembers (`vmferry history`); repeatable.")  # fmt: skip
@database_option
@click.option("--picture", type=_FILE, callback=check_picture, help="Draw them; FILE ends in .svg.")
@click.option("--html", type=_FILE, help="Write a page that opens offline: what came out, course, reasons, every run.")
@json_option("Print one JSON object for each migration.", RecordedRun)
def command(
    journals: tuple[Path, ...],
    numbers: tuple[int, ...],
    database: str | None,
    picture: Path | None,
    html: Path | None,
    as_json: bool,
) -> None:
    """Tell of each migration in the JOURNALs what came out, what it cost the guest, and why it was slowed.

    The option --journal of `vmferry vm`, `migrate`, `watch` and `simulate` writes them. A file may hold several
    migrations; ended by .gz, it is unpacked.
    """
    if bool(journals) == bool(numbers) or (database and not numbers):
        raise UsageError("give either JOURNALs, or --id of migrations that an agent remembers, maybe with --database")
    runs = _remembered(numbers, database) if numbers else labelled(_read_all(journals))
    if picture:
        write_picture(picture, title_of(runs), runs)
    if html:
        write_whole(html, page(title_of(runs), [Section("", runs)]))
    if as_json:
        for run in runs:
            print_record(recorded_run(run))
    elif picture or html:
        click.echo(verdict(runs))
    else:
        click.echo(text_report(runs))


def _read_all(journals: tuple[Path, ...]) -> Iterator[RunSeries]:
    for path in journals:
        runs = _read(path)
        for number, run in enumerate(runs, 1):
            name = f"migration {number} of {path.name}" if len(runs) > 1 else ""
            yield replace(run, name=clean_text(name), source=clean_text(str(path)))


def _remembered(numbers: tuple[int, ...], database: str | None) -> list[RunSeries]:
    with needing_agent_extra():
        from vmferry.agent.reports import remembered_runs
    with open_memory(database) as connection:
        return remembered_runs(connection, numbers)


def _read(path: Path) -> list[RunSeries]:
    migrations = islice(split_migrations(read_journal(path, warn)), MAX_MIGRATIONS + 1)
    runs = [run_series(entries, str(path)) for entries in migrations]
    if not runs:
        raise UsageError(f"{path}: no migration began in it; give the journal of a source")
    if len(runs) > MAX_MIGRATIONS:
        raise UsageError(f"{path}: more than {MAX_MIGRATIONS} migrations; that is too many to report")
    return runs
