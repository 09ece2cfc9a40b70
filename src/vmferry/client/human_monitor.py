"""The human monitor of any VM, ours or QEMU's, over its QMP socket: lines to carry out, words to complete.

What can be completed is asked of the monitor itself, so it is right for whatever answers there.
"""

import re
from collections.abc import Iterable
from functools import cached_property

from vmferry.client.qmp_client import QmpClient

_DESCRIPTION = re.compile(r"(\S+) .*?-- ")
_REFUSAL = re.compile(
    r'^(?:Error: |unknown command: |unknown event )|^Try "help .*" for more information$', re.MULTILINE
)
_TRACE_EVENT = re.compile(r"(\S+) : state")
_SETTING = re.compile(r"([a-z][a-z0-9-]*): ")


class HumanMonitor:
    """A conversation with the human monitor behind a QMP connection."""

    def __init__(self, client: QmpClient) -> None:
        self._client = client

    def execute(self, line: str) -> str:
        """Carry a line out and return what the monitor prints, errors included. Raises MonitorError."""
        answer = self._client.execute("human-monitor-command", {"command-line": line})
        return str(answer).replace("\r\n", "\n")

    def completions(self, line: str) -> list[str]:
        """Return what the last word of `line`, which may be empty, can become."""
        *before, last = re.split(r"\s+", line.lstrip())
        return [word for word in self._words_after(before) if word.startswith(last)]

    def _words_after(self, before: list[str]) -> list[str]:
        match before:
            case [] | ["help" | "?"]:
                return self._commands
            case ["info"] | ["help" | "?", "info"]:
                return self._info
            case ["migrate_set_parameter"]:
                return self._settings("info migrate_parameters")
            case ["migrate_set_capability"]:
                return self._settings("info migrate_capabilities")
            case ["migrate_continue"]:
                return ["pre-switchover"]
            case ["info", "trace-events"] | ["trace-event"]:
                return _first_groups(_TRACE_EVENT, self.execute("info trace-events").splitlines())
            case ["trace-event", _] | ["migrate_set_capability", _]:
                return ["off", "on"]
            case _:
                return []

    @cached_property
    def _commands(self) -> list[str]:
        return _names(self.execute("help").splitlines())

    @cached_property
    def _info(self) -> list[str]:
        return _names(line.removeprefix("info ") for line in self.execute("help info").splitlines())

    def _settings(self, line: str) -> list[str]:
        return sorted(_first_groups(_SETTING, self.execute(line).splitlines()))


def is_refusal(answer: str) -> bool:
    """Tell from the words of an answer whether the monitor refused the line; there is no other sign."""
    return bool(_REFUSAL.search(answer))


def _names(descriptions: Iterable[str]) -> list[str]:
    """Return the names of commands from what `help` says of them, aliases included."""
    return sorted({name for title in _first_groups(_DESCRIPTION, descriptions) for name in title.split("|")})


def _first_groups(pattern: re.Pattern[str], lines: Iterable[str]) -> list[str]:
    return [match[1] for line in lines if (match := pattern.match(line))]
