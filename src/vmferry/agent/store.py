"""What is written into the database and read from it; one statement or two each, in the caller's transaction."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import msgspec
from sqlalchemy import Column, ColumnElement, Connection, Row, Select, delete, func, insert, select, update

from vmferry.agent.pieces import read_pieces
from vmferry.agent.recording import Close, Facts, Foretold, outcome_of
from vmferry.agent.remembered_run import RememberedRun
from vmferry.agent.schema import journal, migration
from vmferry.bounds import one_line
from vmferry.errors import UsageError
from vmferry.migration.journal import Entry
from vmferry.migration.outcome import Outcome
from vmferry.units import UNKNOWN

_SAME_MS = 3000
"""Two who notice a migration agree on its beginning by less than this."""
MAX_ROWS = 10_000
_MAX_ID = (1 << 31) - 1
"""Of PostgreSQL's integers."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which migrations to look for; None is any."""

    vm: str | None = None
    """A pattern of names with `*` and `?`, or a UUID."""
    host: str | None = None
    status: str | None = None
    """How they ended or how far they are, unknown if nobody saw the end."""
    policy: str | None = None
    """A pattern of the policy or variant that decided, or would have."""
    since_ms: int | None = None
    """When they began at the earliest, in milliseconds since the Unix epoch."""
    until_ms: int | None = None
    """They began before then."""
    limit: int = 100


def take_up(connection: Connection, host: str, facts: Facts) -> tuple[int, int]:
    """Return the number of a migration that begins, or is found again, and that of the next part of its journal."""
    same = (
        select(migration.c.id)
        .where(migration.c.host == host, migration.c.vm_uuid == one_line(facts.vm.uuid))
        .where(migration.c.vm_name == one_line(facts.vm.name), migration.c.ended_ms.is_(None))
        .where(migration.c.began_ms.between(facts.began_ms - _SAME_MS, facts.began_ms + _SAME_MS))
        .order_by(migration.c.id.desc())
    )
    row = connection.execute(same).first()
    if row is None:
        return _begin(connection, host, facts), 0
    connection.execute(update(migration).where(migration.c.id == row.id).values(followed=True, **_orders(facts)))
    last = connection.execute(select(func.max(journal.c.part)).where(journal.c.migration_id == row.id)).scalar()
    return row.id, 0 if last is None else last + 1


def add_piece(connection: Connection, migration_id: int, part: int, number: int, data: bytes) -> None:
    """Keep a piece of a migration's journal."""
    connection.execute(insert(journal).values(migration_id=migration_id, part=part, number=number, data=data))


def note_state(connection: Connection, migration_id: int, status: str, foretold: Foretold | None, facts: Facts) -> None:
    """Keep the state that was seen last, the first forecast, if there is one by now, and what is done with it now."""
    values: dict[str, Any] = {"status": one_line(status), **_orders(facts)}
    if foretold:
        values["forecast"] = msgspec.to_builtins(foretold)
    connection.execute(update(migration).where(migration.c.id == migration_id).values(values))


def note_close(connection: Connection, migration_id: int, close: Close) -> None:
    """Keep how a migration ended, or that it is followed no more; then its figures are those of the journal so far."""
    outcome = close.outcome
    if close.ended_ms is None:
        with suppress(UsageError):  # what cannot be read has no figures
            outcome = outcome_of(journal_of(connection, migration_id))
    values = {
        "followed": False,
        "ended_ms": close.ended_ms,
        "outcome": _clean(msgspec.to_builtins(outcome)),
        "limits": _clean([asdict(verdict) for verdict in close.verdicts]) or None,
        "arrival": close.arrival,
        "remark": one_line(close.remark),
    }
    connection.execute(update(migration).where(migration.c.id == migration_id).values(values))


def close_left(connection: Connection, host: str) -> int:
    """Close what an agent of this host that is no more has left open. Returns how many migrations that were."""
    query = select(migration.c.id).where(migration.c.host == host, migration.c.followed)
    left = connection.execute(query).all()
    for row in left:
        remark = "the agent ended before the migration did"
        note_close(connection, row.id, Close(ended_ms=None, remark=remark))
    return len(left)


def forget(connection: Connection, host: str, before_ms: int) -> None:
    """Forget what began on a host before then."""
    connection.execute(
        delete(migration).where(migration.c.host == host, migration.c.began_ms < before_ms, ~migration.c.followed)
    )


def find(connection: Connection, wanted: Wanted) -> Iterator[RememberedRun]:
    """Yield migrations, the newest first."""
    query = _matching(wanted).order_by(migration.c.began_ms.desc(), migration.c.id.desc())
    for row in connection.execute(query.limit(min(wanted.limit, MAX_ROWS))):
        yield _remembered(row)


def get(connection: Connection, migration_id: int) -> RememberedRun:
    """Return one migration. Raises UsageError if there is none."""
    row = None
    if migration_id <= _MAX_ID:  # beyond that databases refuse to compare
        row = connection.execute(select(migration).where(migration.c.id == migration_id)).first()
    if row is None:
        raise UsageError(f"no migration {migration_id} is remembered; `vmferry history` lists those that are")
    return _remembered(row)


def journal_of(connection: Connection, migration_id: int) -> list[Entry]:
    """Return a migration's journal. Raises UsageError if what is kept is none."""
    query = (
        select(journal.c.part, journal.c.data)
        .where(journal.c.migration_id == migration_id)
        .order_by(journal.c.part, journal.c.number)
    )
    rows = connection.execute(query).all()
    parts = (read_pieces(row.data for row in part) for _, part in groupby(rows, lambda row: row.part))
    return [entry for part in parts for entry in part]


def _begin(connection: Connection, host: str, facts: Facts) -> int:
    values = {
        "host": host,
        "vm_name": one_line(facts.vm.name),
        "vm_uuid": one_line(facts.vm.uuid),
        "address": one_line(facts.address),
        **_orders(facts),
        "began_ms": facts.began_ms,
        "followed": True,
        "status": "setup",
        "remark": "",
    }
    key = connection.execute(insert(migration).values(values)).inserted_primary_key
    assert key
    return int(key[0])


def _orders(facts: Facts) -> dict[str, str]:
    return {"mode": facts.mode.value, "rule": one_line(facts.rule), "variant": one_line(facts.variant)}


def _matching(wanted: Wanted) -> Select[Any]:
    query = select(migration)
    if wanted.vm is not None:
        query = query.where(_is_like(migration.c.vm_name, wanted.vm) | (migration.c.vm_uuid == wanted.vm.lower()))
    if wanted.host is not None:
        query = query.where(migration.c.host == wanted.host)
    if wanted.status is not None:
        is_known = migration.c.followed | migration.c.ended_ms.is_not(None)
        query = query.where(~is_known if wanted.status == UNKNOWN else is_known & (migration.c.status == wanted.status))
    if wanted.policy is not None:
        query = query.where(_is_like(migration.c.variant, wanted.policy))
    if wanted.since_ms is not None:
        query = query.where(migration.c.began_ms >= wanted.since_ms)
    if wanted.until_ms is not None:
        query = query.where(migration.c.began_ms < wanted.until_ms)
    return query


def _is_like(column: Column[str], pattern: str) -> ColumnElement[bool]:
    escaped = "".join(f"\\{character}" if character in "\\%_" else character for character in pattern)
    return column.like(escaped.replace("*", "%").replace("?", "_"), escape="\\")


def _remembered(row: Row[Any]) -> RememberedRun:
    kept = {str(name): value for name, value in row._mapping.items()}
    try:
        outcome = msgspec.convert(kept.pop("outcome") or {"status": row.status}, Outcome)
        forecast = msgspec.convert(kept["forecast"], Foretold | None)
        left_ms = forecast.left_ms(outcome) if forecast else None
        return msgspec.convert({**msgspec.structs.asdict(outcome), **kept, "left_ms": left_ms}, RememberedRun)
    except msgspec.ValidationError as error:
        raise UsageError(f"what the database has of migration {row.id} cannot be: {error}") from error


def _clean(value: Any) -> Any:
    """Return JSON whose texts every database takes; they come from monitors."""
    match value:
        case str():
            return one_line(value)
        case dict():
            return {one_line(key): _clean(item) for key, item in value.items()}
        case list():
            return [_clean(item) for item in value]
    return value
