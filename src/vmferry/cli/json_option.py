"""The option `--json`: the types of what a command prints with it, one JSON object a line, and the printing.

Each type says what its keys mean. docs/json.md is made of them (`json_reference`), and tests hold commands to them.
"""

from collections.abc import Callable
from typing import Any

import click
import msgspec

_Command = Callable[..., Any]


class JsonOption(click.Option):
    """An option by which a command prints records as JSON."""

    def __init__(self, *arguments: Any, records: tuple[type, ...], **others: Any) -> None:
        super().__init__(*arguments, **others)
        self.records = records
        """The types of the records."""


def json_option(help: str, *records: type, name: str = "--json") -> Callable[[_Command], _Command]:
    """Return a decorator that adds an option by which records of these types are printed; `--json` is `as_json`."""
    parameter = "as_json" if name == "--json" else name.strip("-").replace("-", "_")
    return click.option(name, parameter, cls=JsonOption, records=records, is_flag=True, help=help)


def print_record(record: object, kind: type | None = None) -> None:
    """Print a record; with `kind`, only the keys of that type, all of which it has."""
    click.echo(msgspec.json.encode(record if kind is None else msgspec.convert(record, kind, from_attributes=True)))
