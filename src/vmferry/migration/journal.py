"""The record of a migration: one JSON object per line, `{"time-ns": ..., "event": {...}}`.

A journal may come from anywhere, so reading one is strict: long lines and unknown events are refused. Only what a crash
leaves is forgiven, a last line that is cut off. One whose name ends in `.gz` is unpacked while it is read.
"""

import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from vmferry.errors import UsageError
from vmferry.migration.events import BandwidthWindow, Ended, Event, Started, StatusChanged, SwitchoverBegan
from vmferry.migration.ports import Journal
from vmferry.output import Output, open_unblocked

_SYNC_S = 0.05
"""How long a hand-over waits for the disk."""
MAX_LINE_BYTES = 64 * 1024
MAX_ENTRIES = 1_000_000
"""How many entries one migration may have: 28 hours at ten bandwidth windows per second."""
_HUGE_NUMBER = re.compile(rb'(?:":|[\[,])\s*-?[0-9]{100}')
"""Nothing is counted so far, and what is worked out of such a number may be no float any more; texts may hold any."""


class Entry(msgspec.Struct, frozen=True, rename="kebab"):
    """One line: what happened when."""

    time_ns: int
    event: Event


_ENTRIES = msgspec.json.Decoder(Entry)


class MemoryJournal:
    """Keeps the entries in a list."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event."""
        self.entries.append(Entry(time_ns, event))


class CourseJournal(MemoryJournal):
    """Keeps what the figures of a migration follow from: all but its bandwidth windows, which are many."""

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event, if it is to be kept."""
        if not isinstance(event, BandwidthWindow):
            super().record(time_ns, event)


class FileJournal:
    """Has each entry written to a file as it happens, without waiting. It is a context manager.

    A new file is for its owner's eyes only. A journal that is there already is continued, anything else is left alone.
    If the file does not take entries for so long that one must be dropped, the journal ends before it. `tell` is told
    of that. Raises UsageError if there can be no such file.
    """

    def __init__(self, path: Path, tell: Callable[[str], object] = lambda text: None) -> None:
        try:
            _cut_to_whole_lines(path)
            with suppress(FileExistsError):
                path.touch(0o600, exist_ok=False)
            file = io.FileIO(path, "ab", opener=open_unblocked)
        except OSError as error:
            raise UsageError(f"cannot write '{path}': {error.strerror}") from error
        self._output = Output(file, f"the journal '{path}'", tell)
        self._encoder = msgspec.json.Encoder()
        self._complete = True

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event, if all before it could be; how a migration has ended is put on the disk at once.

        So is that a guest is about to be handed over, for which this waits a moment, as the guest still runs.
        """
        line = self._encoder.encode(Entry(time_ns, event)) + b"\n"
        ends = isinstance(event, StatusChanged) and not event.new.is_running
        hands_over = isinstance(event, SwitchoverBegan)
        self._complete = self._complete and self._output.write(line, sync=ends or hands_over)
        if hands_over:
            self._output.flush(_SYNC_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._output.close()


class TeeJournal:
    """Passes every event on to several journals."""

    def __init__(self, journals: Iterable[Journal]) -> None:
        self._journals = tuple(journals)

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event to each."""
        for journal in self._journals:
            journal.record(time_ns, event)


def _cut_to_whole_lines(path: Path) -> None:
    """Drop a last line that a crash cut off. Raises UsageError if there is a file that is no journal."""
    if not path.is_file():  # not there yet, or a device or a pipe, which keep nothing
        return
    with path.open("rb+") as file:
        first, size_bytes = file.readline(MAX_LINE_BYTES + 1), file.seek(0, io.SEEK_END)
        if not size_bytes:
            return
        try:
            decode_entry(first, str(path))
        except UsageError as error:
            raise UsageError(f"'{path}' is there and is no journal; give the journal a file of its own") from error
        tail_bytes = min(size_bytes, MAX_LINE_BYTES)
        file.seek(-tail_bytes, io.SEEK_END)
        file.truncate(size_bytes - tail_bytes + file.read().rfind(b"\n") + 1)


def read_journal(path: Path | str, tell: Callable[[str], None] = lambda text: None) -> Iterator[Entry]:
    """Yield the entries of a journal file; `tell` is told of a last line that is cut off, which is left out.

    Raises UsageError that names the file and the line.
    """
    path = Path(path)
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                try:
                    entry = decode_entry(line, f"{path}:{number}")
                except UsageError:
                    if number == 1 or len(line) > MAX_LINE_BYTES or line.endswith(b"\n"):
                        raise
                    tell(f"{path}: its last line, number {number}, is cut off and left out")
                else:
                    yield entry
    except EOFError:
        tell(f"{path}: it is cut off after line {number}; what comes after that is left out")
    except (OSError, zlib.error) as error:
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
class JournaledMigration:
    """One of the migrations in a journal file."""

    entries: list[Entry]
    number: int
    """Counted from 1."""
    count: int
    """How many migrations the file holds."""


def read_migration(
    path: Path | str, number: int | None = None, tell: Callable[[str], None] = lambda text: None
) -> JournaledMigration:
    """Return the migration of that number in a journal file, by default the last. Raises UsageError.

    `tell` is that of `read_journal`.
    """
    chosen: list[Entry] = []
    count = 0
    for count, entries in enumerate(split_migrations(read_journal(path, tell)), 1):
        if number in (None, count):
            chosen = entries
    if not count:
        raise UsageError(f"{path}: no migration began in it; give the journal of a source")
    if not chosen:
        raise UsageError(f"{path}: there is no migration {number} in it, it holds {count}")
    return JournaledMigration(chosen, number or count, count)


def decode_entry(line: bytes, where: str) -> Entry:
    """Return the entry of a line. Raises UsageError, whose text begins with where it stands."""
    if len(line) > MAX_LINE_BYTES:
        raise UsageError(f"{where}: not a journal, a line is longer than {MAX_LINE_BYTES} bytes")
    if _HUGE_NUMBER.search(line):
        raise UsageError(f"{where}: not a journal entry: a number has 100 digits or more")
    try:
        return _ENTRIES.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: not a journal entry: {error}") from error
