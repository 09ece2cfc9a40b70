"""The record of a migration: one JSON object per line, `{"time-ns": ..., "event": {...}}`.

A journal may come from anywhere, so reading one is strict: long lines and unknown events are refused. One whose name
ends in `.gz` is unpacked while it is read.
"""

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from vmferry.errors import HostError, UsageError
from vmferry.migration.events import Ended, Event, Started
from vmferry.migration.ports import Journal

MAX_LINE_BYTES = 64 * 1024
MAX_ENTRIES = 1_000_000
"""Of one migration; 28 hours at ten bandwidth windows per second."""


class Entry(msgspec.Struct, frozen=True, rename="kebab"):
    """One line: what happened when."""

    time_ns: int
    event: Event


class MemoryJournal:
    """Keeps the entries in a list."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event."""
        self.entries.append(Entry(time_ns, event))


class FileJournal:
    """Writes each entry to a new file as it happens, so that a crash loses nothing before it; a context manager.

    Raises UsageError if there can be no such file; `record` raises HostError if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise UsageError(f"cannot write '{path}': {error.strerror}") from error
        self._path = path
        self._encoder = msgspec.json.Encoder()

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event."""
        line = self._encoder.encode(Entry(time_ns, event)) + b"\n"
        try:
            written = self._file.write(line)
        except OSError as error:
            raise HostError(f"cannot write the journal '{self._path}': {error.strerror}", error.errno) from error
        if written != len(line):
            raise HostError(f"cannot write the journal '{self._path}': the disk is full")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class ForgivingJournal:
    """Passes events on until that fails, which it tells once: no migration ends for want of its record."""

    def __init__(self, journal: Journal, tell: Callable[[str], None]) -> None:
        self._journal: Journal | None = journal
        self._tell = tell

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event, if all before it could be."""
        if self._journal:
            try:
                self._journal.record(time_ns, event)
            except HostError as error:
                self._journal = None
                self._tell(f"{error}; the migration goes on without being recorded")


class TeeJournal:
    """Passes every event on to several journals."""

    def __init__(self, journals: Iterable[Journal]) -> None:
        self._journals = tuple(journals)

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event to each."""
        for journal in self._journals:
            journal.record(time_ns, event)


def read_journal(path: Path) -> Iterator[Entry]:
    """Yield the entries of a journal file. Raises UsageError that names the file and the line."""
    decoder = msgspec.json.Decoder(Entry)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                yield _decode(decoder, line, f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the journal {path}: {reason}") from error


def split_migrations(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield the entries of each outgoing migration, from `started` to `ended`.

    What lies between, such as a destination's states, is left out. Raises UsageError for one that is too long.
    """
    migration: list[Entry] = []
    for entry in entries:
        if isinstance(entry.event, Started) and migration:
            yield migration
            migration = []
        if migration or isinstance(entry.event, Started):
            migration.append(entry)
        if len(migration) > MAX_ENTRIES:
            raise UsageError(f"a migration has more than {MAX_ENTRIES} entries; it is too long to be one")
        if isinstance(entry.event, Ended) and migration:
            yield migration
            migration = []
    if migration:
        yield migration


@dataclass(frozen=True)
class Migration:
    """One of the migrations in a journal file."""

    entries: list[Entry]
    number: int
    """Counted from 1."""
    count: int
    """Of all in the file."""


def read_migration(path: Path, number: int | None = None) -> Migration:
    """Return the migration of that number in a journal file, by default the last. Raises UsageError."""
    chosen: list[Entry] = []
    count = 0
    for count, entries in enumerate(split_migrations(read_journal(path)), 1):
        if number in (None, count):
            chosen = entries
    if not count:
        raise UsageError(f"{path}: no migration began in it; give the journal of a source")
    if not chosen:
        raise UsageError(f"{path}: there is no migration {number} in it, it holds {count}")
    return Migration(chosen, number or count, count)


def _decode(decoder: msgspec.json.Decoder[Entry], line: bytes, where: str) -> Entry:
    if len(line) > MAX_LINE_BYTES:
        raise UsageError(f"{where}: not a journal, a line is longer than {MAX_LINE_BYTES} bytes")
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: not a journal entry: {error}") from error
