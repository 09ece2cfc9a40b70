"""What is said beside results: lines for people, JSON lines, or entries of systemd's journal, with the same fields.

Nothing waits for who reads them. The fields are `vm`, `uuid` and whatever else tells what a line is about.
"""

import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any

import msgspec

from vmferry.bounds import one_line

JOURNAL_SOCKET = "/run/systemd/journal/socket"


class Level(IntEnum):
    """How much a line matters, in syslog's numbers."""

    ERROR = 3
    WARNING = 4
    INFO = 6


Fields = Mapping[str, object]
Sink = Callable[[Level, str, Fields], None]


class Log:
    """Says things of some VM, or of none. One of a VM adds to the fields of the one that it comes from."""

    def __init__(self, sink: Sink, fields: Fields | None = None) -> None:
        self._sink = sink
        self._fields = fields or {}

    def info(self, text: str, **fields: object) -> None:
        """Say what happens."""
        self._sink(Level.INFO, one_line(text), {**self._fields, **fields})

    def warn(self, text: str, **fields: object) -> None:
        """Say what somebody should look at."""
        self._sink(Level.WARNING, one_line(text), {**self._fields, **fields})

    def error(self, text: str, **fields: object) -> None:
        """Say what has ended this process."""
        self._sink(Level.ERROR, one_line(text), {**self._fields, **fields})

    def of(self, **fields: object) -> "Log":
        """Return a log whose lines have these fields, too."""
        return Log(self._sink, {**self._fields, **fields})


def as_text(level: Level, text: str, fields: Fields) -> None:
    """Write a line for people."""
    whose = f"{one_line(str(fields['vm']))}: " if "vm" in fields else ""
    how = "" if level is Level.INFO else f"{level.name.lower()}: "
    sys.stderr.write(f"vmferry agent: {how}{whose}{text}\n")


def as_json(level: Level, text: str, fields: Fields) -> None:
    """Write one JSON object to a line."""
    entry: dict[str, Any] = {
        "time": datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds"),
        "level": level.name.lower(),
        "message": text,
        **{name: value if isinstance(value, int) else one_line(str(value)) for name, value in fields.items()},
    }
    sys.stderr.write(msgspec.json.encode(entry).decode() + "\n")


class Journald:
    """Sends entries to systemd's journal by its native protocol; what it does not take goes to stderr as text."""

    def __init__(self, path: str = JOURNAL_SOCKET) -> None:
        self._path = path

    def __call__(self, level: Level, text: str, fields: Fields) -> None:
        """Send one entry."""
        own = {f"VMFERRY_{name.upper()}": one_line(str(value)) for name, value in fields.items()}
        entry = {"MESSAGE": text, "PRIORITY": int(level), "SYSLOG_IDENTIFIER": "vmferry-agent", **own}
        data = "".join(f"{name}={value}\n" for name, value in entry.items()).encode(errors="replace")
        try:
            _send(data, self._path)
        except OSError:
            as_text(level, text, fields)


def notify(text: str) -> None:
    """Tell systemd, if it has started this process, such as `READY=1` (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError):
        _send(text.encode(), f"\0{address[1:]}" if address[0] == "@" else address)


def _send(data: bytes, address: str) -> None:
    """Send a datagram without waiting. Raises OSError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        sender.sendto(data, address)
