"""What this process says on stderr, beside what its command prints: lines for people, or JSON lines for scripts.

There is one way for a process; `--log-format` sets it, before the command begins.
"""

import sys

import click

from vmferry.agent.log import Fields, Level, Log, Sink, as_json


def _as_lines(level: Level, text: str, fields: Fields) -> None:
    sys.stderr.write(f"vmferry: {text}\n")


class _Stderr:
    """A sink that is another one, whichever was chosen."""

    def __init__(self) -> None:
        self.choose("text", "")

    def choose(self, form: str, command: str) -> None:
        self.is_json = form == "json"
        self._sink: Sink = as_json if self.is_json else _as_lines
        self._fields = {"command": command}

    def __call__(self, level: Level, text: str, fields: Fields) -> None:
        self._sink(level, text, {**self._fields, **fields})


STDERR = _Stderr()
LOG = Log(STDERR)
"""Says things in the way that was chosen."""


def _choose(context: click.Context, parameter: click.Parameter, form: str) -> None:
    STDERR.choose(form, context.info_name or "")


def log_format_option() -> click.Option:
    """Return the option by which it is chosen."""
    return click.Option(
        ["--log-format"],
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        is_eager=True,
        expose_value=False,
        callback=_choose,
        help="How to say on stderr what happens: lines, or JSON lines with time, level and message.",
    )
