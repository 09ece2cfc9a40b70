"""`vmferry policy`: which convergence policies there are, and what can be set."""

import inspect
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import click
import msgspec

from vmferry.bounds import one_line
from vmferry.convergence.policies.registry import BUILT_IN, PolicyKind, known_names, load_policy
from vmferry.errors import UsageError
from vmferry.settings.parameters import PARAMETERS

_WIDTH = 80
_INDENT = " " * 4


@click.group("policy", short_help="Show the convergence policies, and their settings.")
def command() -> None:
    """Show the policies that can decide how a guest is made to converge.

    \b
    vmferry policy list
    vmferry policy show kubevirt
    vmferry policy show mine.py:Mine
    vmferry simulate seed-3000 --policy mine.py:Mine --set policy.gain=2

    One of your own is a class in a file, which docs/policies.md tells how to write.
    """


@command.command("list")
def list_policies() -> None:
    """Name the policies that come along and those that are installed, one a line."""
    names = known_names()
    column = max(map(len, names)) + 2
    for name in names:
        click.echo("\n".join(_wrapped(name.ljust(column), _told(name), " " * column)))


@command.command("show")
@click.argument("name", metavar="NAME|FILE.py:CLASS|MODULE:CLASS")
def show(name: str) -> None:
    """Tell what a policy does, what it needs, and what can be set by --set policy.NAME=VALUE."""
    click.echo("\n".join(_description(load_policy(name))))


def _told(name: str) -> str:
    try:
        kind = load_policy(name)
    except UsageError as error:  # one that is installed and cannot be loaded
        return one_line(str(error))
    return _summary(kind) + ("" if name in BUILT_IN else " (installed)")


def _summary(kind: PolicyKind) -> str:
    """Return the first paragraph of what its author says of it."""
    text = inspect.getdoc(kind.make) or "(its author says nothing of it)"
    return one_line(" ".join(text.partition("\n\n")[0].split()))


def _description(kind: PolicyKind) -> Iterator[str]:
    yield from _wrapped(f"{kind.name}: ", _summary(kind))
    needs = ", ".join(str(flag.name).lower().replace("_", " ") for flag in kind.needs)
    yield from _wrapped("It needs: ", f"{needs or 'nothing'}. Digest of its source: {kind.digest[:16]}")
    fields = {field.name: field.encode_name for field in msgspec.structs.fields(kind.settings_type)}
    schemas = _schemas(kind.settings_type)
    parameters = {name.replace("_", "-") for name in fields} & PARAMETERS.keys()
    own = [encoded for name, encoded in fields.items() if name.replace("_", "-") not in parameters]
    yield "\nSettings, by --set policy.NAME=VALUE" if own else "\nIt has no settings of its own."
    for name in own:
        yield from _entry(name, schemas.get(name, {}))
    if parameters:
        yield "\nMigration parameters that it obeys"
    for name in filter(parameters.__contains__, PARAMETERS):
        yield from _wrapped("  ", f"{name} ({PARAMETERS[name].help})", _INDENT)


def _entry(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield how a setting is written by default, and below what it means and what it can be."""
    default = schema.get("default", "")
    yield f"  {name}={one_line(str(default).lower() if isinstance(default, bool) else str(default))}"
    meaning = one_line(str(schema.get("description", "")))
    allowed = _allowed(schema)
    yield from _wrapped(_INDENT, f"{meaning}{': ' if meaning and allowed else ''}{allowed}", _INDENT)


def _schemas(settings_type: type[msgspec.Struct]) -> Mapping[str, Any]:
    """Return the JSON schema of each setting; none where a type has no schema."""
    try:
        _, definitions = msgspec.json.schema_components([settings_type])
        properties: Mapping[str, Any] = definitions[settings_type.__name__]["properties"]
    except (TypeError, KeyError):
        return {}
    return {name: _resolved(schema, definitions) for name, schema in properties.items()}


def _resolved(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    """An enum's words are told elsewhere in the schema."""
    reference = str(schema.get("$ref", "")).rpartition("/")[2]
    return {**definitions.get(reference, {}), **schema}


def _allowed(schema: Mapping[str, Any]) -> str:
    """Return which values a setting can have; empty if its type does not say."""
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    kind = {"integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(
        schema.get("type", ""), ""
    )
    bounds = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}
    return " ".join([kind, *(f"{word} {schema[key]}" for key, word in bounds.items() if key in schema)]).strip()


def _wrapped(first_indent: str, text: str, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=first_indent, subsequent_indent=indent, break_on_hyphens=False)
