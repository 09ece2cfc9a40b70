"""The manual page of a command, made of what its `--help` says: man(7) macros, as groff and mandoc read them."""

import inspect
import re
import textwrap
from collections.abc import Iterator

import click

from vmferry import __version__
from vmferry.cli.exit_codes import PAGE, meanings

_WIDTH = 78
_VERBATIM = "\b\n"
"""How click is told not to wrap a paragraph."""
_ESCAPES = str.maketrans(
    {"\\": r"\(rs", "-": r"\-", "'": r"\(aq", "`": r"\(ga", "^": r"\(ha", "~": r"\(ti", '"': r"\(dq"}
)


def page(context: click.Context) -> str:
    """Return the page of a command."""
    command, path = context.command, context.command_path
    lines = [
        f'.TH {page_name(path).upper()} 1 "" "vmferry {__version__}" "vmferry manual"',
        ".nh",  # or options would be broken
        ".ad l",
        *_section("NAME", [f"{_escaped(page_name(path))} \\- {_escaped(_short(command))}"]),
        *_section("SYNOPSIS", _synopsis(context)),
        *_section("DESCRIPTION", _description(command)),
        *_section("OPTIONS", _options(context)),
        *_section("COMMANDS", _commands(context)),
        *_section("EXIT STATUS", _exit_status(context)),
        *_section("SEE ALSO", _see_also(context)),
    ]
    return "\n".join(lines) + "\n"


def page_name(path: str) -> str:
    """Return the name of the page of a command that is called like this: `vmferry-perf-run`."""
    return path.replace(" ", "-")


def _section(title: str, lines: list[str]) -> list[str]:
    return [f".SH {title}", *lines] if lines else []


def _short(command: click.Command) -> str:
    return (command.short_help or _help(command).partition("\n\n")[0]).rstrip(".")


def _synopsis(context: click.Context) -> list[str]:
    pieces = context.command.collect_usage_pieces(context)
    return [f".B {_escaped(context.command_path)}", *_text(" ".join(pieces))]


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").partition("\f")[0]


def _description(command: click.Command) -> list[str]:
    lines = []
    for number, paragraph in enumerate(filter(None, re.split(r"\n\s*\n", _help(command)))):
        lines += [".PP"] if number else []
        if paragraph.startswith(_VERBATIM):
            lines += [".nf", *map(_line, paragraph.removeprefix(_VERBATIM).splitlines()), ".fi"]
        else:
            lines += _text(paragraph)
    return lines


def _options(context: click.Context) -> list[str]:
    return [line for names, help in _records(context) for line in (".TP", _names(names), *_text(help))]


def _records(context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if record:
            yield record


def _names(text: str) -> str:
    """Return how an option is written: its names bold, what it takes in italics."""
    return " ".join(f"\\f{'B' if word.startswith('-') else 'I'}{_escaped(word)}\\fR" for word in text.split())


def _commands(context: click.Context) -> list[str]:
    command = context.command
    if not isinstance(command, click.Group):
        return []
    lines = []
    for name in command.list_commands(context):
        below = command.get_command(context, name)
        assert below
        lines += [".TP", f".BR {_escaped(page_name(f'{context.command_path} {name}'))} (1)", *_text(_short(below))]
    return lines


def _exit_status(context: click.Context) -> list[str]:
    if isinstance(context.command, click.Group):
        return []
    told = meanings(context.command_path.partition(" ")[2])
    lines = [line for code, text in told.items() for line in (".TP", f".B {_escaped(code)}", *_text(text))]
    return [*lines, ".PP", *_text(f"{PAGE} of the project says what to do then.")]


def _see_also(context: click.Context) -> list[str]:
    parents = []
    while context.parent:
        context = context.parent
        parents.append(f".BR {_escaped(page_name(context.command_path))} (1)")
    return parents


def _text(text: str) -> list[str]:
    words = " ".join(text.split())
    wrapped = textwrap.wrap(words, _WIDTH, break_long_words=False, break_on_hyphens=False)
    return [_line(line) for line in wrapped]


def _line(text: str) -> str:
    """Return a line of text that is no request, whatever it begins with."""
    escaped = _escaped(text)
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


def _escaped(text: str) -> str:
    """Return text that looks as it is: roff takes several characters of ASCII for others, and others for none."""
    escaped = text.translate(_ESCAPES)
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in escaped)
