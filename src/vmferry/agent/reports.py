"""The runs of remembered migrations, as reports show them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import msgspec
from sqlalchemy import Connection

from vmferry.agent.remembered_run import RememberedRun
from vmferry.agent.store import get, journal_of
from vmferry.bounds import clean_text
from vmferry.errors import UsageError
from vmferry.migration.journal import split_migrations
from vmferry.report.journal_runs import run_series
from vmferry.report.labels import labelled
from vmferry.report.page import Section, page
from vmferry.report.runs import Run
from vmferry.report.series import RunSeries
from vmferry.units import UNKNOWN

_KEPT = {True: "kept", False: "not kept", None: UNKNOWN}


def remembered_runs(connection: Connection, numbers: Iterable[int]) -> list[RunSeries]:
    """Return what is known of migrations, one run for each time that one was found again. Raises UsageError."""
    return labelled(run for number in numbers for run in _runs(connection, get(connection, number)))


def report_page(connection: Connection, number: int) -> str:
    """Return the report of a migration as a page. Raises UsageError."""
    migration = get(connection, number)
    section = Section("", labelled(_runs(connection, migration)))
    return page(f"Migration {number} of {migration.vm_name}", [section], _note(migration))


def history_page(connection: Connection, migrations: Sequence[RememberedRun]) -> str:
    """Return the report of many, those without a journal included, as a page. Raises UsageError for too many."""
    courses: list[RunSeries] = []
    others: list[Run] = []
    for migration in migrations:
        try:
            courses += list(_runs(connection, migration))
        except UsageError:
            others.append(_without_journal(migration))
    return page("Remembered migrations", [Section("", [*labelled(courses), *others])])


def _runs(connection: Connection, migration: RememberedRun) -> Iterator[RunSeries]:
    parts = list(split_migrations(journal_of(connection, migration.id)))
    if not parts:
        raise UsageError(f"of migration {migration.id} no journal is remembered")
    for place, part in enumerate(parts, 1):
        found = f", found {place} of {len(parts)} times" if len(parts) > 1 else ""
        yield replace(
            run_series(part, f"migration {migration.id}"),
            vm_name=clean_text(migration.vm_name),
            name=f"migration {migration.id}{found}",
            source=clean_text(f"what the agent on {migration.host} remembers"),
        )


def _without_journal(migration: RememberedRun) -> Run:
    outcome = msgspec.structs.replace(migration, status=migration.state)
    label = clean_text(f"{migration.vm_name}: {migration.variant or UNKNOWN}")
    return Run(label=label, name=f"migration {migration.id}", outcome=outcome)


def _note(migration: RememberedRun) -> str:
    """Say what is remembered beside the journal: what was to be done, whether the guest arrived, and limits."""
    sentences = [
        f"On {migration.host}: {migration.mode}, {migration.rule}",
        f"The guest's arrival is {migration.arrival}" if migration.arrival else "",
        *(f"{verdict.limit}: {verdict.text}, {_KEPT[verdict.kept]}" for verdict in migration.limits or ()),
        migration.remark,
    ]
    return " ".join(f"{sentence}." for sentence in sentences if sentence)
