"""Writes the reference of what `--json` prints, `docs/json.md`, from the types that the commands print.

python -m vmferry.cli.json_reference > docs/json.md
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import pairwise

import msgspec
from msgspec.inspect import (
    AnyType,
    BoolType,
    CollectionType,
    DataclassType,
    DictType,
    EnumType,
    FloatType,
    IntType,
    ListType,
    NoneType,
    StrType,
    StructType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from vmferry.cli.command_tree import contexts
from vmferry.cli.json_option import JsonOption
from vmferry.cli.main import vmferry

_INTRODUCTION = """\
# What `--json` prints

<!-- Made by `python -m vmferry.cli.json_reference > docs/json.md`; do not edit. -->

One JSON object a line, on standard output. A figure has the same name in every command, in QEMU's words with its unit
at the end: `total_time_ms`, `downtime_ms`, `sent_bytes`, `bandwidth_bytes_per_s`, `work_lost_percent`. What nobody
knows is `null`, never 0. More keys may come; those that are here stay.

## While a migration runs

`vmferry watch --json` follows a migration that somebody else began, and `vmferry migrate --json-lines` one of its own.
Each line has the key `event`, which says of what kind it is, and is written at once. What is decided comes with its
reason as it is decided; how far it is, once per second and in each new state.

```
vmferry watch --qmp unix:/run/vm.qmp --wait --shadow planned --json
```

The last line is an `ended` ([EndedLine](#endedline)), the same object that `vmferry migrate --json` prints alone; or a
`left` ([LeftLine](#leftline)), if the command ends before the migration does: by Ctrl-C, SIGTERM, or because the VM
cannot be asked any more. It has the exit code ([exit-codes.md](exit-codes.md)). A reader that is slow or goes away
holds up and ends no migration; what it missed is told on standard error.

## What is said beside it

What a command says to people is on standard error. With `--log-format json`, which every command but `qemu` has, that
is one JSON object a line too: `time` (ISO 8601, UTC), `level` (`info`, `warning` or `error`), `message`, and fields
such as `command`, `vm` and `exit_code`. A command line that cannot be parsed is told as text.

## Commands
"""
_PLAIN: dict[type[Type], str] = {
    AnyType: "anything",
    BoolType: "true or false",
    FloatType: "number",
    IntType: "whole number",
    NoneType: "null",
    StrType: "text",
}
_Record = StructType | DataclassType


def reference() -> str:
    """Return the page."""
    rows = [f"| `{path} {option.opts[0]}` | {_links(option.records)} |" for path, option in json_commands()]
    table = ["| command | prints |", "|---|---|", *rows]
    sections = [_section(info) for _, info in sorted(records().items())]
    return "\n".join([_INTRODUCTION, *table, "", "## Objects", "", "\n\n".join(sections)]) + "\n"


def records() -> dict[str, _Record]:
    """Return all types of objects that are printed, and that there are in them, by name."""
    found: dict[str, _Record] = {}
    for _, option in json_commands():
        for record in option.records:
            _collect(type_info(record), found)
    return found


def json_commands() -> Iterator[tuple[str, JsonOption]]:
    """Yield each way to have JSON printed: how the command is called, and the option."""
    for context in contexts(vmferry):
        for parameter in context.command.params:
            if isinstance(parameter, JsonOption):
                yield context.command_path, parameter


def _collect(info: Type, records: dict[str, _Record]) -> None:
    """Add the types of objects that there are in a type."""
    match info:
        case StructType() | DataclassType() if info.cls.__name__ not in records:
            records[info.cls.__name__] = info
            for base in _bases(info):
                _collect(base, records)
            for field in info.fields:
                _collect(field.type, records)
        case UnionType():
            for each in info.types:
                _collect(each, records)
        case CollectionType():
            _collect(info.item_type, records)
        case DictType():
            _collect(info.value_type, records)


def _bases(info: _Record) -> list[_Record]:
    """Return the record that this one has all the keys of, if there is one."""
    bases = [base for base in info.cls.__mro__[1:] if _is_record(base)]
    found = type_info(bases[0]) if bases else None
    return [found] if isinstance(found, StructType) else []


def _is_record(base: type) -> bool:
    return issubclass(base, msgspec.Struct) and base is not msgspec.Struct and not base.__name__.startswith("_")


def _section(info: _Record) -> str:
    cls = info.cls
    lines = [f"### {cls.__name__}", "", *textwrap.wrap(" ".join((inspect.getdoc(cls) or "").split()), 120)]
    inherited = {field.name for base in _bases(info) for field in base.fields}
    lines += ["", *(f"It has the keys of {_link(base.cls)}, and these:\n" for base in _bases(info))]
    lines += ["| key | it is | it means |", "|---|---|---|"]
    if isinstance(info, StructType) and info.tag:
        lines.append(f'| `{info.tag_field}` | `"{info.tag}"` | which kind of line it is |')
    meanings = _meanings(cls)
    for field in info.fields:
        if field.name not in inherited:
            meaning = meanings.get(field.name, "").replace("|", "\\|")
            lines.append(f"| `{field.encode_name}` | {kind_text(field.type)} | {meaning} |")
    return "\n".join(lines)


def _meanings(cls: type) -> dict[str, str]:
    """Return what the source says of each key, below it."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("vmferry."):
            body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            assert isinstance(body, ast.ClassDef)
            found |= dict(_documented(body.body))
    return found


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for field, text in pairwise(body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                sentence = " ".join(said.split()).removesuffix(".")
                yield name, re.sub(r"\bNone\b", "null", sentence)


def kind_text(info: Type) -> str:
    """Return which values are of a type, for people."""
    match info:
        case EnumType():
            return " or ".join(f'`"{each.value}"`' for each in info.cls)
        case StructType() | DataclassType():
            return f"[{info.cls.__name__}](#{info.cls.__name__.lower()})"
        case UnionType():
            return " or ".join(map(kind_text, sorted(info.types, key=lambda each: isinstance(each, NoneType))))
        case ListType() | VarTupleType():
            return f"list: {kind_text(info.item_type)}"
        case DictType():
            return f"object: {kind_text(info.value_type)} by name"
        case _:
            return _PLAIN[type(info)]


def _links(records: Iterable[type]) -> str:
    return ", ".join(map(_link, records))


def _link(record: type) -> str:
    return f"[{record.__name__}](#{record.__name__.lower()})"


if __name__ == "__main__":
    print(reference(), end="")
