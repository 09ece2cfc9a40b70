"""The option to record a migration that is seen from outside."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from vmferry.errors import UsageError
from vmferry.migration.journal import FileJournal, TeeJournal
from vmferry.migration.ports import Journal

journal_option = click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Record the migration in this file, as it is seen from outside.",
)


@contextmanager
def open_journal(path: Path | None) -> Iterator[Journal]:
    """Yield a journal that writes to a file, or to nowhere. Raises UsageError if the file cannot be written."""
    if path is None:
        yield TeeJournal([])
        return
    try:
        file = path.open("wb")
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error
    with file:
        yield FileJournal(file)
