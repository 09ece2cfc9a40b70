"""Writes the reference of the monitor, `docs/qmp.md`, from the tables that the monitor itself runs on.

python -m vmferry.monitor.reference > docs/qmp.md
"""

from collections.abc import Iterable, Sequence

import msgspec
from msgspec import inspect

from vmferry.migration.trace import TRACE_EVENTS
from vmferry.monitor.commands import COMMANDS, Command
from vmferry.monitor.events import EVENTS
from vmferry.monitor.framing import MAX_MESSAGE_BYTES, MAX_NESTING
from vmferry.monitor.hmp import HmpCommand
from vmferry.monitor.hmp_commands import HMP_COMMANDS, INFO_COMMANDS
from vmferry.monitor.json_text import MAX_EXPLAINED_BYTES
from vmferry.monitor.migration_commands import MigrateSetParameters, MigrationParameters
from vmferry.monitor.qapi import Empty, QapiStruct, builtin_name, words_of
from vmferry.monitor.server import MAX_CLIENTS, MAX_UNSENT_BYTES
from vmferry.monitor.vm_commands import SPOKEN_QEMU_VERSION
from vmferry.settings.capabilities import CAPABILITIES, INERT_CAPABILITIES
from vmferry.settings.inert_parameters import INERT_PARAMETERS
from vmferry.settings.parameter_spec import ParameterSpec
from vmferry.settings.parameters import PARAMETERS
from vmferry.settings.qapi_types import UNSIGNED_MAX
from vmferry.units import format_size

_INTRODUCTION = f"""\
# The monitor: QMP and HMP

<!-- Made by `python -m vmferry.monitor.reference > docs/qmp.md`; do not edit. -->

A vmferry VM is controlled as QEMU is: over QMP, which is JSON on a unix or TCP socket. What it says of migration is
what QEMU {".".join(map(str, SPOKEN_QEMU_VERSION))} says, so `qemu.qmp` or your own client need not know the difference.

```
$ vmferry vm --memory 1G --qmp unix:/tmp/a.qmp &
$ socat - UNIX-CONNECT:/tmp/a.qmp
{{"QMP": {{"version": ..., "capabilities": []}}}}
{{"execute": "qmp_capabilities"}}
{{"return": {{}}}}
{{"execute": "query-status", "id": 1}}
{{"return": {{"running": true, "status": "running"}}, "id": 1}}
```

`vmferry monitor unix:/tmp/a.qmp` is a prompt for the human monitor, with completion and a history; it carries out one
line if it is given one, and lines from a pipe, and works on the QMP sockets of QEMU as well.

Unix sockets are made with mode 0600. TCP needs a host to listen at, and with `tcp:HOST:PORT,tls-creds=DIRECTORY` only
clients that have a certificate are served ([tls.md](tls.md)). Whoever reaches the monitor controls the VM and writes
files with the rights of its process (`pmemsave`): new ones or regular files, never through a symbolic link, with mode
0600, and whole or not at all.

A command that has to wait, for a disk or a name server, holds up the client that gave it and nobody else.

## Where it differs from QEMU

- A message may have {format_size(MAX_MESSAGE_BYTES)} and {MAX_NESTING} levels of brackets. Beyond that the client
  gets an error and is disconnected (QEMU takes 64 MiB and 1024 levels, and goes on reading).
- {MAX_CLIENTS} clients at a time; more are turned away. A client that does not read its answers is not read from,
  and one that leaves {format_size(MAX_UNSENT_BYTES)} of events unread is disconnected.
- A client whose first bytes are not JSON, such as a browser that was made to post something to a TCP monitor, is
  disconnected at once (QEMU goes on reading, and carries out the commands that follow). After the negotiation a client
  may send nonsense.
- A member that an object has twice is refused (`JSON parse error, duplicate key`), as other errors of JSON are, in
  QEMU's words. Our own are those after `JSON parse error, stray`, those for numbers that no JSON text holds (`01`,
  `1e`), and those for messages of more than {format_size(MAX_EXPLAINED_BYTES)}.
- A number that is too large for a double (`1e999`), and a NUL that is written in two bytes, are refused (QEMU takes
  them).
- `pmemsave` refuses anything but regular files (QEMU waits until a FIFO has a reader).
- A negative number for an unsigned 64-bit one is refused (QEMU wraps it round).
- No out-of-band commands, no file descriptors over the socket.
- Parameters and capabilities of QEMU's that have no effect here are reported at their defaults. They can be set to
  these, and to nothing else.
- `MIGRATION_PASS` counts iterations, as the seed of this project has it; QEMU counts dirty syncs.
- `calc-dirty-rate` by the dirty log is refused while a migration runs, and a migration that begins ends it without a
  result (QEMU lets both use the log); HMP says that the start time is in seconds, which it is.
- HMP's `migrate` never waits, and `info migrate -a` has no `Globals`.
"""


_TRACING = """\
`vmferry vm --trace 'migration_*'` prints those that match to standard error, as QEMU's log does:
`PID@SECONDS.MICROSECONDS:NAME TEXT`. Each is a line of text for an entry of the journal (`vmferry vm --journal FILE`),
which has them all, with all their figures.
"""

_PARAMETER_STRUCTS = (MigrateSetParameters, MigrationParameters)
"""Their members have a table of their own."""


def reference() -> str:
    """Return the whole text, in Markdown."""
    return "\n".join(
        (_INTRODUCTION, _commands(), _events(), _parameters(), _capabilities(), _trace_events(), _hmp(), _types())
    )


def _commands() -> str:
    rows = (
        (f"`{name}`", _members(command.arguments), _returned(command), _meaning(command.function))
        for name, command in COMMANDS.items()
    )
    return _section("Commands", ("command", "takes", "returns", "what it does"), rows)


def _events() -> str:
    rows = ((f"`{name}`", _members(data), _meaning(data)) for name, data in EVENTS.items())
    return _section("Events", ("event", "data", "what happened"), rows)


def _parameters() -> str:
    header = ("parameter", "type", "default", "allowed", "what it is")
    live = (_parameter_row(spec) for spec in PARAMETERS.values())
    inert = (_parameter_row(spec) for spec in INERT_PARAMETERS.values())
    return (
        _section("Migration parameters", header, live)
        + "\n"
        + _section("Migration parameters without effect here", header, inert)
    )


def _parameter_row(spec: ParameterSpec) -> tuple[str, ...]:
    default = msgspec.json.encode(spec.default).decode()
    return f"`{spec.name}`", spec.qapi_type, f"{default} {spec.unit}".strip(), _allowed(spec), spec.help


def _allowed(spec: ParameterSpec) -> str:
    if spec.choices:
        return _words(spec.choices)
    if spec.qapi_type not in UNSIGNED_MAX or spec.maximum == UNSIGNED_MAX[spec.qapi_type]:
        return ""
    return f"{spec.minimum} to {spec.maximum}"


def _capabilities() -> str:
    rows = (
        (f"`{name}`", "no" if name in INERT_CAPABILITIES else "yes", meaning) for name, meaning in CAPABILITIES.items()
    )
    return _section("Migration capabilities", ("capability", "here", "what it does"), rows)


def _trace_events() -> str:
    rows = ((f"`{event.name}`", event.help) for event in TRACE_EVENTS)
    return _section("Trace events", ("trace event", "what it tells"), rows) + "\n" + _TRACING


def _hmp() -> str:
    def row(command: HmpCommand, prefix: str) -> tuple[str, ...]:
        return f"`{f'{prefix}{command.title} {command.usage}'.strip()}`".replace("|", "\\|"), command.help

    rows = [row(command, "") for command in HMP_COMMANDS] + [row(command, "info ") for command in INFO_COMMANDS]
    return _section("HMP, by `human-monitor-command`", ("line", "what it does"), rows)


def _types() -> str:
    """List the structs that commands refer to, each after the first that refers to it."""
    found: dict[type, None] = {}
    for command in COMMANDS.values():
        _collect(inspect.type_info(command.arguments), found)
        _collect(inspect.type_info(command.returns), found)
    shown_above = {command.arguments for command in COMMANDS.values()} | set(_PARAMETER_STRUCTS)
    rows = (
        (f"`{struct.__name__}`", _members(struct), _meaning(struct)) for struct in found if struct not in shown_above
    )
    return _section("Types", ("type", "members", "what it is"), rows)


def _collect(kind: inspect.Type, found: dict[type, None]) -> None:
    match kind:
        case inspect.ListType():
            _collect(kind.item_type, found)
        case inspect.UnionType():
            for alternative in kind.types:
                _collect(alternative, found)
        case inspect.StructType() if kind.cls not in found:
            found[kind.cls] = None
            for field in kind.fields:
                _collect(field.type, found)


def _members(struct: type[QapiStruct]) -> str:
    if struct in _PARAMETER_STRUCTS:
        return "[parameters](#migration-parameters)"
    info = inspect.type_info(struct)
    assert isinstance(info, inspect.StructType)
    tag = [f'`{info.tag_field}`: "{info.tag}"'] if info.tag_field else []
    return ", ".join(tag + [_member(field) for field in info.fields])


def _member(field: inspect.Field) -> str:
    return f"`{field.encode_name}`{'' if field.required else '?'}: {_type_name(field.type)}"


def _returned(command: Command) -> str:
    return "" if command.returns is Empty else _type_name(inspect.type_info(command.returns))


def _type_name(kind: inspect.Type) -> str:
    match kind:
        case inspect.StructType(cls=struct):
            return _members(struct) if struct in _PARAMETER_STRUCTS else struct.__name__
        case inspect.ListType():
            return f"[{_type_name(kind.item_type)}]"
        case inspect.EnumType() | inspect.Metadata():
            words = words_of(kind)
            return _words(words) if len(words) < 12 else "str"
        case inspect.UnionType(types=(inspect.StructType(cls=struct), *_)):
            return struct.__mro__[1].__name__  # what its variants have in common
        case inspect.UnionType():
            return " or ".join(_type_name(alternative) for alternative in kind.types)
        case inspect.AnyType():
            return "any"
        case _:
            return builtin_name(kind)


def _words(words: Iterable[str]) -> str:
    return " or ".join(f'"{word}"' for word in words)


def _meaning(documented: object) -> str:
    return " ".join((documented.__doc__ or "").split())


def _section(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return f"## {title}\n\n" + "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    print(reference(), end="")
