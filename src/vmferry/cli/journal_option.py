"""The option to record a migration that is seen from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from vmferry.cli.tables import warn
from vmferry.migration.journal import FileJournal, TeeJournal
from vmferry.migration.ports import Journal

journal_option = click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Record the migration in this file; a journal that is there is continued.",
)


@contextmanager
def open_journal(path: Path | None) -> Iterator[Journal]:
    """Yield a journal that writes to a file as long as it can, or to nowhere. Raises UsageError for no file."""
    if path is None:
        yield TeeJournal([])
        return
    with FileJournal(path, warn) as journal:
        yield journal
