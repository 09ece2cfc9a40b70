"""The types of commands and answers, declared as msgspec structs and checked in QEMU's words.

A struct declares what a QAPI schema declares: `bool`, `str`, `int`, `float`, the unsigned integers
below, enums, lists, structs, and optional members as `X | UnsetType = UNSET`. Member names are
spelled with dashes outside. The schema that clients can query is made from the same structs.
"""

from collections.abc import Iterable
from functools import cache
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import inspect

from vmferry.errors import UsageError
from vmferry.settings.qapi_types import UNSIGNED_MAX, check_builtin, check_word, wrong_type

UInt8 = Annotated[int, msgspec.Meta(ge=0, le=UNSIGNED_MAX["uint8"])]
UInt32 = Annotated[int, msgspec.Meta(ge=0, le=UNSIGNED_MAX["uint32"])]
UInt64 = Annotated[int, msgspec.Meta(ge=0)]


def words(enum_name: str, allowed: Iterable[str]) -> msgspec.Meta:
    """Return the annotation that makes a `str` an enum, for words that come from a table."""
    return msgspec.Meta(extra={"enum": enum_name, "words": tuple(allowed)})


_StructT = TypeVar("_StructT", bound="QapiStruct")


class QapiStruct(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """Base of the arguments of commands, of answers and of what they are made of."""


class Empty(QapiStruct, frozen=True):
    """Nothing."""


def parse_arguments(struct: type[_StructT], arguments: dict[str, Any]) -> _StructT:
    """Return the arguments as a struct. Raises UsageError with QEMU's text for the first that is wrong."""
    _check_members(_type_of(struct), arguments, "")
    return msgspec.convert(arguments, struct)


@cache
def _type_of(struct: type[QapiStruct]) -> inspect.StructType:
    found = inspect.type_info(struct)
    assert isinstance(found, inspect.StructType)
    return found


def _check_members(struct: inspect.StructType, values: dict[str, Any], path: str) -> None:
    names = {field.encode_name: field for field in struct.fields}
    for name, field in names.items():
        if name in values:
            _check(field.type, values[name], path + name)
        elif field.required:
            raise UsageError(f"Parameter '{path}{name}' is missing")
    for name in values:
        if name not in names:
            raise UsageError(f"Parameter '{path}{name}' is unexpected")


def _check(expected: inspect.Type, value: object, path: str) -> None:
    match expected:
        case inspect.StructType():
            if not isinstance(value, dict):
                raise wrong_type(path, "object")
            _check_members(expected, value, f"{path}.")
        case inspect.ListType():
            if not isinstance(value, list):
                raise wrong_type(path, "array")
            for index, item in enumerate(value):
                _check(expected.item_type, item, f"{path}[{index}]")
        case inspect.EnumType() | inspect.Metadata():
            # QEMU names only the member here, not the path to it.
            check_word(path.rpartition(".")[2], words_of(expected), value)
        case inspect.UnionType():
            if value is not None and not isinstance(value, str):
                raise wrong_type(path, "StrOrNull")  # the only union that commands take
        case inspect.AnyType():
            pass
        case _:
            check_builtin(path, builtin_name(expected), value)


def words_of(enum: inspect.EnumType | inspect.Metadata) -> tuple[str, ...]:
    """Return the words of an enum."""
    if isinstance(enum, inspect.EnumType):
        return tuple(member.value for member in enum.cls)
    assert enum.extra
    return tuple(enum.extra["words"])


def builtin_name(kind: inspect.Type) -> str:
    """Return the QAPI name of a scalar type."""
    match kind:
        case inspect.BoolType():
            return "bool"
        case inspect.StrType():
            return "str"
        case inspect.FloatType():
            return "number"
        case inspect.NoneType():
            return "null"
        case inspect.IntType(ge=None):
            return "int"
        case inspect.IntType():
            return next((name for name, top in UNSIGNED_MAX.items() if top == kind.le), "uint64")
        case _:
            raise AssertionError(f"{kind} has no QAPI name")
