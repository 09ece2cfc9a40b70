"""Opens the database in which migrations are remembered: SQLite, or PostgreSQL for many hosts.

The tables are brought up to date by whoever writes. No statement waits long: a database that is away must not become
an agent that is.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from vmferry.bounds import one_line
from vmferry.errors import HostError, UsageError

Reading = Connection
"""A connection to a database from which is only read."""

_TIMEOUT_S = 10
_PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON")
_UPGRADE_LOCK = 0x766D6665
"""Of PostgreSQL's advisory locks the one under which tables are changed."""


def open_to_write(url: str) -> Engine:
    """Return a database whose tables are those of this release. Raises UsageError, HostError."""
    engine = _open(url)
    try:
        with telling(engine), engine.begin() as connection:
            _upgrade(connection)
    except BaseException:
        engine.dispose()
        raise
    return engine


@contextmanager
def reading(url: str) -> Iterator[Reading]:
    """Yield a connection to a database that an agent has made. Raises UsageError, HostError."""
    engine = _open(url)
    try:
        if engine.dialect.name == "sqlite" and not Path(str(engine.url.database)).exists():
            raise UsageError(f"there is no database {engine.url.database}; an agent makes it")
        with telling(engine), engine.connect() as connection:
            _require_current(connection)
            yield connection
    finally:
        engine.dispose()


@contextmanager
def telling(engine: Engine) -> Iterator[None]:
    """Raise HostError, in one line, for what the database refuses."""
    try:
        yield
    except SQLAlchemyError as error:
        where = engine.url.render_as_string(hide_password=True)
        raise HostError(f"cannot use the database {where}: {reason_of(error)}") from error


def reason_of(error: SQLAlchemyError) -> str:
    """Return in one line why a statement has failed."""
    return one_line(str(getattr(error, "orig", None) or error).strip().splitlines()[0])


def _open(url: str) -> Engine:
    parsed = _parse(url)
    if parsed.get_backend_name() == "sqlite":
        engine = create_engine(parsed, connect_args={"timeout": _TIMEOUT_S})
        event.listen(engine, "connect", _set_pragmas)
        return engine
    bounds = {
        "connect_timeout": _TIMEOUT_S,
        "tcp_user_timeout": _TIMEOUT_S * 1000,
        "options": f"-c statement_timeout={_TIMEOUT_S}s -c lock_timeout={_TIMEOUT_S}s",
    }
    return create_engine(parsed.set(drivername="postgresql+psycopg"), connect_args=bounds, pool_pre_ping=True)


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise UsageError(f"'{one_line(url)}' is no database; write sqlite:///PATH or postgresql://...") from error
    if backend not in ("sqlite", "postgresql"):
        raise UsageError(f"'{backend}' is no database for this; write sqlite:///PATH or postgresql://...")
    if backend == "sqlite" and not parsed.database:
        raise UsageError("a database in memory remembers nothing; write sqlite:///PATH")
    return parsed


def _set_pragmas(connection: Any, record: object) -> None:
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _upgrade(connection: Connection) -> None:
    """Bring the tables up to date; of several agents that begin at once, one does."""
    if connection.dialect.name == "sqlite":
        connection.execute(text("BEGIN IMMEDIATE"))
    else:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"))
    config = _alembic()
    config.attributes["connection"] = connection
    _require_known(connection)
    command.upgrade(config, "head")


def _require_current(connection: Connection) -> None:
    _require_known(connection)
    if _revision(connection) != _newest():
        raise UsageError("the database is of an older release; start the agent of this one, which brings it up to date")


def _require_known(connection: Connection) -> None:
    revision = _revision(connection)
    if revision not in (None, *(script.revision for script in _scripts().walk_revisions())):
        raise UsageError(f"the database is of a newer release (its tables are '{revision}'); use that one")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _newest() -> str | None:
    return _scripts().get_current_head()


@functools.cache
def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_alembic())


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config
