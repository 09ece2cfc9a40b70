"""The human monitor (HMP): a line in, a text out, with the commands and the words of QEMU's.

It acts on the VM as QMP does; QMP's `human-monitor-command` passes lines to it.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from vmferry.errors import UsageError, VmferryError
from vmferry.monitor.vm_port import MonitoredVm

_FLAG = re.compile(r"\s*-(\S?)")
_WORD = re.compile(r'\s*(?:"([^"\\]*(?:\\.[^"\\]*)*)"|([^\s"]\S*))')
_ESCAPE = re.compile(r"\\(.)")


class BadLineError(UsageError):
    """What follows the name of a command is not what the command takes."""


class Given(NamedTuple):
    """What a line has after the name of the command."""

    flags: str
    """The letters of the options."""
    words: Sequence[str]


@dataclass(frozen=True)
class HmpCommand:
    """A command: its names, what may follow them, and what carries it out and tells what there is to say."""

    name: str
    function: Callable[[MonitoredVm, Given], str | None]
    help: str
    usage: str = ""
    alias: str = ""
    flags: str = ""
    """The letters of the options it takes."""
    words: int = 0
    """How many words it must get."""
    more_words: int = 0
    """How many it may get beyond these."""
    takes_long: bool = False
    """Whether it may have to wait; it is carried out in a thread of its own then."""

    @property
    def title(self) -> str:
        """Return all its names."""
        return f"{self.name}|{self.alias}" if self.alias else self.name

    def description(self, prefix: str = "") -> str:
        """Return the line that `help` prints."""
        return f"{prefix}{self.title} {self.usage} -- {self.help}\n"

    def parse(self, rest: str) -> Given:
        """Return what the rest of a line says. Raises BadLineError."""
        flags, rest = self._take_flags(rest)
        words: list[str] = []
        while len(words) < self.words or (rest.strip() and len(words) < self.words + self.more_words):
            word, rest = self._take_word(rest)
            words.append(word)
        if rest.strip():
            raise BadLineError(f"{self.title}: extraneous characters at the end of line")
        return Given(flags, words)

    def _take_flags(self, rest: str) -> tuple[str, str]:
        flags = ""
        while self.flags and (match := _FLAG.match(rest)):
            if match[1] not in self.flags:
                raise BadLineError(f"{self.title}: unsupported option -{match[1]}")
            flags += match[1]
            rest = rest[match.end() :]
        return flags, rest

    def _take_word(self, rest: str) -> tuple[str, str]:
        match = _WORD.match(rest)
        if not match:
            raise BadLineError(f"{self.title}: string expected")
        quoted, bare = match.groups()
        return bare if quoted is None else _ESCAPE.sub(r"\1", quoted), rest[match.end() :]


class HmpInterpreter:
    """Carries out lines on a VM, with the commands of `table` and, after the word `info`, of `info_table`."""

    def __init__(self, vm: MonitoredVm, table: Sequence[HmpCommand], info_table: Sequence[HmpCommand]) -> None:
        self._vm = vm
        self._table = table
        self._info_table = info_table

    def execute(self, line: str) -> str:
        """Carry a line out and return what there is to say: whole lines, or nothing."""
        name, rest = split_name(line)
        table, prefix = self._table, ""
        if name == "info" and rest:
            name, rest = split_name(rest)
            table, prefix = self._info_table, "info "
        command = find_hmp_command(table, name)
        if not command:
            return f"unknown command: '{prefix}{name}'\n" if name else ""
        try:
            return command.function(self._vm, command.parse(rest)) or ""
        except BadLineError as error:
            return f'{error}\nTry "help {prefix}{name}" for more information\n'
        except VmferryError as error:
            return f"Error: {error}\n"


def split_name(line: str) -> tuple[str, str]:
    """Return the first word and what follows it."""
    name, rest = (*line.split(None, 1), "", "")[:2]
    return name, rest


def find_hmp_command(table: Sequence[HmpCommand], name: str) -> HmpCommand | None:
    """Return the command of that name or alias, if there is one."""
    return next((command for command in table if name and name in (command.name, command.alias)), None)
