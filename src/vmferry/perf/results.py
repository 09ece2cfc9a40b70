"""A directory of measured runs: `runs.jsonl` with one line for each, and their journals beside it.

A run is appended when it is over, so an interrupted batch loses at most the run it was in; a line torn by a crash is
dropped when the directory is opened again. What is read may come from anywhere: lines are capped and checked.
"""

import gzip
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from vmferry.errors import UsageError
from vmferry.migration.journal import Entry, read_journal
from vmferry.perf.measure import Job, PerfRun

RUNS_FILE = "runs.jsonl"
MAX_LINE_BYTES = 4 << 20
_LABEL = re.compile(r"[\w.+-]{1,200}")


class ResultSet:
    """The runs in one directory, which is made if it is not there. Raises UsageError if it cannot be used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._drop_torn_line()
        except OSError as error:
            raise UsageError(f"cannot keep results in {directory}: {error.strerror}") from error
        self.runs = list(read_runs(directory))

    def journal_path(self, job: Job) -> Path:
        """Return where to write the journal while a job runs."""
        return self.directory / f"{job.label}.jsonl"

    def has(self, job: Job) -> bool:
        """Tell whether a job was measured; one that ended in an error was not."""
        return any(run.job.label == job.label and run.status != "error" for run in self.runs)

    def add(self, run: PerfRun) -> None:
        """Append a run and pack its journal."""
        journal = self.journal_path(run.job)
        if journal.exists():
            with journal.open("rb") as plain, gzip.GzipFile(f"{journal}.gz", "wb", mtime=0) as packed:
                shutil.copyfileobj(plain, packed)
            journal.unlink()
        with (self.directory / RUNS_FILE).open("ab") as file:
            file.write(msgspec.json.encode(run) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.runs.append(run)

    def _drop_torn_line(self) -> None:
        path = self.directory / RUNS_FILE
        if not path.exists():
            return
        with path.open("rb+") as file:
            whole_bytes = 0
            for line in iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""):
                whole_bytes = file.tell() if line.endswith(b"\n") else whole_bytes
            file.truncate(whole_bytes)


def read_runs(directory: Path) -> Iterator[PerfRun]:
    """Yield the runs of a directory, of repeats that were measured again the last one.

    Raises UsageError that names what is wrong.
    """
    path = directory / RUNS_FILE
    latest: dict[str, PerfRun] = {}
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                run = _decode(line, f"{path}:{number}")
                latest[run.job.label] = run
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    yield from latest.values()


def run_entries(directory: Path, run: PerfRun) -> list[Entry]:
    """Return the journal of a run, empty if it has none. Raises UsageError if it is no journal."""
    path = directory / f"{run.job.label}.jsonl.gz"
    return list(read_journal(path)) if path.exists() else []


def _decode(line: bytes, where: str) -> PerfRun:
    if len(line) > MAX_LINE_BYTES:
        raise UsageError(f"{where}: not a result, the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        run = msgspec.json.decode(line, type=PerfRun)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where}: not a result of vmferry perf: {error}") from error
    if not _LABEL.fullmatch(run.job.label):
        raise UsageError(f"{where}: '{run.job.label[:60]}' is no label of a run")
    return run
