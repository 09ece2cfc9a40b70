"""The option that says where an agent remembers migrations."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vmferry.agent.config import DEFAULT_DATABASE, DEFAULT_PATH, read_config
from vmferry.cli.agent_extra import needing_agent_extra

if TYPE_CHECKING:
    from vmferry.agent.database import Reading


def database_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--database` to a command."""
    return click.option(
        "--database",
        metavar="URL|FILE.toml",
        help=f"Where an agent remembers migrations: sqlite:///PATH, postgresql://..., or its file with rules. "
        f"[default: that of {DEFAULT_PATH}]",
    )(command)


@contextmanager
def open_memory(database: str | None) -> Iterator["Reading"]:
    """Yield a connection to what an agent remembers. Raises UsageError, HostError."""
    with needing_agent_extra():
        from vmferry.agent.database import reading
    with reading(_url(database)) as connection:
        yield connection


def _url(database: str | None) -> str:
    if database is None:
        return read_config(DEFAULT_PATH).database if DEFAULT_PATH.exists() else DEFAULT_DATABASE
    return read_config(Path(database)).database if database.endswith(".toml") else database
