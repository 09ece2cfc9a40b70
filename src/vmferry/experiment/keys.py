"""What may stand in a scenario's file: told to whoever wrote something else."""

import re
from typing import Any

import msgspec
from msgspec import inspect

from vmferry.errors import UsageError
from vmferry.settings.parameters import PARAMETERS, find_parameter

_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_INTERNAL = ("trace", "digest", "source")
"""Fields that no file sets."""


def keys_of(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    """Return the keys that a section may have."""
    return tuple(field.encode_name for field in msgspec.structs.fields(struct) if field.name not in _INTERNAL)


def refusal(error: msgspec.ValidationError, struct: type[msgspec.Struct]) -> str:
    """Return what msgspec says of a document that is no `struct`, and what would have been allowed."""
    text = _MISSING.sub(r"`\1` is missing", str(error))
    place = _PLACE.search(text)
    allowed = _allowed(text, _type_at(inspect.type_info(struct), place["path"] if place else ""))
    return f"{text}; there are: {', '.join(allowed)}" if allowed else text


def allowed_parameter(name: str, value: object) -> None:
    """Raise UsageError, which names what is allowed, unless a migration parameter can have the value."""
    try:
        choices = find_parameter(name).choices
    except UsageError as error:
        raise UsageError(f"parameters: {error}; there are: {', '.join(PARAMETERS)}") from error
    try:
        find_parameter(name).check(value)
    except UsageError as error:
        raise UsageError(f"{error}; there are: {', '.join(choices)}" if choices else str(error)) from error


def _type_at(kind: Any, path: str) -> Any:
    """Follow a path such as `.guest.loads[0].pattern` from a type to the type there."""
    for name in re.findall(r"\.([\w-]+)|\[", path):
        if isinstance(kind, inspect.StructType) and name:
            kind = next((field.type for field in kind.fields if field.encode_name == name), None)
        elif not name:
            kind = getattr(kind, "item_type", None)
    return kind


def _allowed(text: str, kind: Any) -> tuple[str, ...]:
    if isinstance(kind, inspect.StructType) and "unknown field" in text:
        return keys_of(kind.cls)
    if isinstance(kind, inspect.LiteralType) and "enum value" in text:
        return tuple(map(str, kind.values))
    if isinstance(kind, inspect.EnumType) and "enum value" in text:
        return tuple(str(member.value) for member in kind.cls)
    return ()
