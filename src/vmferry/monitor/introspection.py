"""Describes commands and events as data (QEMU `qapi/introspect.json`), made from the types they are declared with.

As in QEMU, types have numbers for names: clients find out what a command takes, and must not rely on names.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from msgspec import UNSET, UnsetType, inspect

from vmferry.monitor.qapi import QapiStruct, builtin_name, words_of


class JsonType(StrEnum):
    """What a built-in type looks like in JSON."""

    STRING = "string"
    NUMBER = "number"
    INT = "int"
    BOOLEAN = "boolean"
    NULL = "null"
    VALUE = "value"


class SchemaInfo(QapiStruct, frozen=True, tag_field="meta-type"):
    """One command, event or type."""

    name: str


class SchemaInfoBuiltin(SchemaInfo, frozen=True, tag="builtin"):
    """A type that QAPI has from the start."""

    json_type: JsonType


class SchemaInfoEnumMember(QapiStruct, frozen=True):
    """A word."""

    name: str


class SchemaInfoEnum(SchemaInfo, frozen=True, tag="enum"):
    """One of some words; `values` has them once more, for old clients."""

    members: list[SchemaInfoEnumMember]
    values: list[str]


class SchemaInfoArray(SchemaInfo, frozen=True, tag="array"):
    """Any number of elements of a type."""

    element_type: str


class SchemaInfoObjectMember(QapiStruct, frozen=True):
    """A member of an object; it has a `default`, which is null, if it may be left out."""

    name: str
    type: str
    default: Any | UnsetType = UNSET


class SchemaInfoObjectVariant(QapiStruct, frozen=True):
    """Further members of an object, for one value of its tag."""

    case: str
    type: str


class SchemaInfoObject(SchemaInfo, frozen=True, tag="object"):
    """Named members; if there is a `tag`, the member of that name selects a variant."""

    members: list[SchemaInfoObjectMember]
    tag: str | UnsetType = UNSET
    variants: list[SchemaInfoObjectVariant] | UnsetType = UNSET


class SchemaInfoAlternateMember(QapiStruct, frozen=True):
    """One of the types of an alternate."""

    type: str


class SchemaInfoAlternate(SchemaInfo, frozen=True, tag="alternate"):
    """A value of one of some types."""

    members: list[SchemaInfoAlternateMember]


class SchemaInfoCommand(SchemaInfo, frozen=True, tag="command"):
    """A command, and the types of what it takes and returns."""

    arg_type: str
    ret_type: str
    allow_oob: bool


class SchemaInfoEvent(SchemaInfo, frozen=True, tag="event"):
    """An event, and the type of its data."""

    arg_type: str


AnySchemaInfo = (
    SchemaInfoBuiltin
    | SchemaInfoEnum
    | SchemaInfoArray
    | SchemaInfoObject
    | SchemaInfoAlternate
    | SchemaInfoCommand
    | SchemaInfoEvent
)

_JSON_TYPES = {
    "str": JsonType.STRING,
    "bool": JsonType.BOOLEAN,
    "number": JsonType.NUMBER,
    "null": JsonType.NULL,
    "any": JsonType.VALUE,
}


def describe(
    commands: Iterable[tuple[str, type[QapiStruct], Any]], events: Mapping[str, type[QapiStruct]]
) -> list[AnySchemaInfo]:
    """Return the description of commands, given by name, arguments and what they return, and of events."""
    types = _Types()
    entries: list[AnySchemaInfo] = [
        SchemaInfoCommand(name=name, arg_type=types.name_of(takes), ret_type=types.name_of(returns), allow_oob=False)
        for name, takes, returns in commands
    ]
    entries += [SchemaInfoEvent(name=name, arg_type=types.name_of(data)) for name, data in events.items()]
    return entries + types.infos


class _Types:
    """Collects the descriptions of types, each under a name of its own."""

    def __init__(self) -> None:
        self.infos: list[AnySchemaInfo] = []
        self._numbers: dict[object, str] = {}
        self._named_ones: set[str] = set()

    def name_of(self, python_type: Any) -> str:
        """Return the name of a type, after describing it and all that it refers to."""
        return self._name(inspect.type_info(python_type))

    def _name(self, kind: inspect.Type) -> str:
        match kind:
            case inspect.StructType():
                return self._numbered(kind.cls, lambda name: self._object(name, kind.fields))
            case inspect.UnionType():
                return self._numbered(_key_of(kind), lambda name: self._union(name, kind))
            case inspect.EnumType() | inspect.Metadata():
                return self._numbered(words_of(kind), lambda name: _enum(name, words_of(kind)))
            case inspect.ListType():
                return self._array(self._name(kind.item_type))
            case _:
                return self._builtin("any" if isinstance(kind, inspect.AnyType) else builtin_name(kind))

    def _numbered(self, key: object, make: Callable[[str], AnySchemaInfo]) -> str:
        if key not in self._numbers:
            self._numbers[key] = str(len(self._numbers))
            self.infos.append(make(self._numbers[key]))
        return self._numbers[key]

    def _object(self, name: str, fields: Iterable[inspect.Field]) -> SchemaInfoObject:
        return SchemaInfoObject(name=name, members=[self._member(field) for field in fields])

    def _member(self, field: inspect.Field) -> SchemaInfoObjectMember:
        default = UNSET if field.required else None
        return SchemaInfoObjectMember(name=field.encode_name, type=self._name(field.type), default=default)

    def _union(self, name: str, union: inspect.UnionType) -> AnySchemaInfo:
        structs = [kind for kind in union.types if isinstance(kind, inspect.StructType)]
        if structs:
            return self._variants(name, structs)
        members = [SchemaInfoAlternateMember(type=self._name(kind)) for kind in union.types]
        return SchemaInfoAlternate(name=name, members=members)

    def _variants(self, name: str, structs: Sequence[inspect.StructType]) -> SchemaInfoObject:
        """Describe tagged structs as one object: what all of them have, and what some of them have."""
        shared = set.intersection(*({field.encode_name for field in struct.fields} for struct in structs))
        tag, cases = str(structs[0].tag_field), [str(struct.tag) for struct in structs]
        tag_type = self._numbered(tuple(cases), lambda name: _enum(name, cases))
        members = [SchemaInfoObjectMember(name=tag, type=tag_type)]
        members += [self._member(field) for field in structs[0].fields if field.encode_name in shared]
        variants = [
            SchemaInfoObjectVariant(case=case, type=self._variant(struct, shared))
            for case, struct in zip(cases, structs, strict=True)
        ]
        return SchemaInfoObject(name=name, members=members, tag=tag, variants=variants)

    def _variant(self, struct: inspect.StructType, shared: set[str]) -> str:
        own = [field for field in struct.fields if field.encode_name not in shared]
        return self._numbered((struct.cls, "variant"), lambda name: self._object(name, own))

    def _array(self, element_type: str) -> str:
        name = f"[{element_type}]"
        return self._named(name, SchemaInfoArray(name=name, element_type=element_type))

    def _builtin(self, name: str) -> str:
        # All integers are called "int": clients need not know how wide they are.
        json_type = _JSON_TYPES.get(name, JsonType.INT)
        name = name if name in _JSON_TYPES else "int"
        return self._named(name, SchemaInfoBuiltin(name=name, json_type=json_type))

    def _named(self, name: str, info: AnySchemaInfo) -> str:
        if name not in self._named_ones:
            self._named_ones.add(name)
            self.infos.append(info)
        return name


def _key_of(union: inspect.UnionType) -> tuple[object, ...]:
    return tuple(kind.cls if isinstance(kind, inspect.StructType) else type(kind) for kind in union.types)


def _enum(name: str, words: Sequence[str]) -> SchemaInfoEnum:
    members = [SchemaInfoEnumMember(name=word) for word in words]
    return SchemaInfoEnum(name=name, members=members, values=list(words))
