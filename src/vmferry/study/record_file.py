"""A file of records, one JSON object a line, that survives interruptions: appended to, and read again to go on.

A line that a crash tore off is dropped when the file is opened for more. What is read may come from anywhere: lines
are capped and checked, and a file that holds anything else is refused and left as it is.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from vmferry.errors import UsageError

MAX_LINE_BYTES = 4 << 20
_R = TypeVar("_R", bound=msgspec.Struct)


@dataclass(frozen=True)
class Format(Generic[_R]):
    """How a record is written as a line of JSON, and read: `decode` raises UsageError or a DecodeError of msgspec."""

    decode: Callable[[bytes], _R]
    encode: Callable[[_R], bytes] = msgspec.json.encode


class RecordFile(Generic[_R]):
    """The records in the file at `path`, which is made with its directory if it is not there.

    Raises UsageError if the file cannot be written or holds something else.
    """

    def __init__(self, path: Path, format: Format[_R]) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise UsageError(f"cannot write {path}: not a regular file")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            open(path, "ab", opener=open_public).close()
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror}") from error
        self._format = format
        self.records = list(read_records(path, format))
        self._drop_torn_line()

    def add(self, record: _R) -> None:
        """Append a record; it is on the disk when this returns. Raises UsageError if there is no room."""
        try:
            with self.path.open("ab") as file:
                file.write(self._format.encode(record) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}") from error
        self.records.append(record)

    def _drop_torn_line(self) -> None:
        with self.path.open("rb+") as file:
            whole_bytes = 0
            for line in file:
                whole_bytes += len(line) if line.endswith(b"\n") else 0
            file.truncate(whole_bytes)


def open_public(path: str, flags: int) -> int:
    """Open a file that others may read, but not write, if it is made here; an `opener`."""
    return os.open(path, flags, 0o644)


def open_private(path: str, flags: int) -> int:
    """Open a file that only its owner may read if it is made here; an `opener`."""
    return os.open(path, flags, 0o600)


def read_records(path: Path, format: Format[_R]) -> Iterator[_R]:
    """Yield the records of a file, without a last line that is torn. Raises UsageError that names the bad line."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), 1):
                if line.endswith(b"\n"):
                    yield _decode(format, line, f"{path}:{number}")
                elif number == 1 or len(line) == MAX_LINE_BYTES:
                    raise UsageError(f"{path}:{number}: no record of ours or a torn one; delete the file to begin anew")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error


def _decode(format: Format[_R], line: bytes, where: str) -> _R:
    try:
        return format.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, UsageError) as error:
        raise UsageError(f"{where}: no record of ours: {error}") from error
