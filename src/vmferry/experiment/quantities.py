"""Quantities of an experiment: numbers of SI units inside, texts as people write them in files and on the command line.

A field's type says which it is, so the text form is told once: `numbers_of` turns a document's texts into numbers.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import inspect

from vmferry.errors import UsageError
from vmferry.units import (
    NS_PER_S,
    PAGE_SIZE_BYTES,
    exact_duration,
    exact_size,
    format_duration,
    format_rate,
    parse_duration_ns,
    parse_rate,
    parse_size,
)

Bytes = Annotated[int, msgspec.Meta(extra={"parse": parse_size})]
BytesPerS = Annotated[int, msgspec.Meta(extra={"parse": parse_rate})]
Nanoseconds = Annotated[int, msgspec.Meta(extra={"parse": parse_duration_ns})]

MAX_BYTES_PER_S = 1 << 50
NS_PER_HOUR = 3600 * NS_PER_S
_MAX_TIME_NS = 1000 * NS_PER_HOUR
_N = TypeVar("_N", int, float)


def numbers_of(value: Any, kind: inspect.Type, where: str) -> Any:
    """Return a document with numbers in the place of the texts where `kind`, its type, has quantities.

    What does not fit the type is left for who checks that. Raises UsageError that begins with `where`.
    """
    match kind:
        case inspect.Metadata(extra={"parse": parse}):
            if not isinstance(value, str):
                raise UsageError(f"{where} is {value!r}; write it as a text, in quotes")
            with telling(where):
                return parse(value)
        case inspect.StructType(fields=fields) if isinstance(value, dict):
            kinds = {field.encode_name: field.type for field in fields}
            return {
                name: numbers_of(item, kinds[name], f"{where}.{name}".lstrip(".")) if name in kinds else item
                for name, item in value.items()
            }
        case inspect.VarTupleType(item_type=item_type) if isinstance(value, list):
            return [numbers_of(item, item_type, f"{where}[{number}]") for number, item in enumerate(value)]
        case inspect.TupleType(item_types=kinds) if isinstance(value, list) and len(value) == len(kinds):
            return [numbers_of(item, item_type, where) for item, item_type in zip(value, kinds, strict=True)]
        case inspect.UnionType(types=(*_, inspect.NoneType())) if value is not None:
            return numbers_of(value, kind.types[0], where)
    return value


@contextmanager
def telling(where: str) -> Iterator[None]:
    """Begin the text of a UsageError with the key that it is about."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def require(name: str, value: _N, least: _N, most: _N) -> None:
    """Raise UsageError unless a value is in its range."""
    if not least <= value <= most:  # so is what is no number
        raise UsageError(f"{name} is {value}, {least:.12g} to {most:.12g} is allowed")


def check_size(name: str, size_bytes: int) -> None:
    """Raise UsageError unless it is 0, or at least a page."""
    if 0 < size_bytes < PAGE_SIZE_BYTES:
        raise UsageError(f"{name} is {exact_size(size_bytes)}, less than a page of {PAGE_SIZE_BYTES} bytes")


def check_rate(name: str, bytes_per_s: int, least: int = 0) -> None:
    """Raise UsageError for a rate that is too low or too high."""
    if not least <= bytes_per_s <= MAX_BYTES_PER_S:
        allowed = f"{least} B/s to {format_rate(MAX_BYTES_PER_S)}"
        raise UsageError(f"{name} is {exact_size(bytes_per_s)}, {allowed} is allowed")


def check_duration(name: str, duration_ns: int, least_ns: int = 0, most_ns: int = _MAX_TIME_NS) -> None:
    """Raise UsageError for a time that is too short or too long."""
    if not least_ns <= duration_ns <= most_ns:
        allowed = f"{format_duration(least_ns)} to {most_ns // NS_PER_HOUR} h"
        raise UsageError(f"{name} is {exact_duration(duration_ns)}, {allowed} is allowed")
