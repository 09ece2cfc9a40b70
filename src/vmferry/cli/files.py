"""Files that commands write: their names are checked before anything is worked out, and they are there whole."""

import os
from pathlib import Path

import click

from vmferry.errors import UsageError
from vmferry.study.record_file import open_public

_SUFFIXES = (".svg", ".html")
"""Of pictures."""


def check_picture(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a name that is no picture's, before anything is worked out; an option's callback."""
    if path is not None and path.suffix not in _SUFFIXES:
        raise UsageError(f"'{path}' is no name for a picture: write one that ends in {' or '.join(_SUFFIXES)}")
    return check_file(context, parameter, path)


def check_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Refuse what no file can be written to, before anything is worked out; an option's callback."""
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"cannot write '{path}': there is no directory '{path.parent}'")
    if path is not None and path.exists() and not path.is_file():
        raise UsageError(f"cannot write '{path}': not a regular file")
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file that others may read, so that it is there whole or not at all.

    Raises UsageError if it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with open(part, "w", encoding="utf-8", opener=open_public) as file:
                file.write(text)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error
