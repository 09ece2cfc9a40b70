"""The runs of a remembered migration, as reports show them."""

from dataclasses import replace

from sqlalchemy import Connection

from vmferry.agent.store import get, journal_of
from vmferry.errors import UsageError
from vmferry.migration.journal import split_migrations
from vmferry.report.journal_runs import clean_text, run_series
from vmferry.report.series import RunSeries


def remembered_runs(connection: Connection, number: int) -> list[RunSeries]:
    """Return what is known of a migration: one run, or one for each time that it was found again. Raises UsageError."""
    migration, entries = get(connection, number), journal_of(connection, number)
    runs = [run_series(part, f"migration {number}") for part in split_migrations(entries)]
    if not runs:
        raise UsageError(f"of migration {number} no journal is remembered")
    return [
        replace(run, label=clean_text(f"{migration.vm_name}{f' #{place}' if len(runs) > 1 else ''}: {run.variant}"))
        for place, run in enumerate(runs, 1)
    ]


def report_page(connection: Connection, number: int) -> str:
    """Return the report of a migration as a page. Raises UsageError."""
    from vmferry.report.page import Section, page  # plotly's own page takes 20 MiB, which few agents need
    from vmferry.report.summary import verdict

    runs = remembered_runs(connection, number)
    return page(f"Migration {number}", [Section("", verdict(runs), runs)])
