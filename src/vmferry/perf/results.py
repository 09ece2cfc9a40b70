"""A directory of measured runs: `runs.jsonl` with a line for each, and their journals, packed, beside it.

A run is appended when it is over, so an interrupted batch loses at most the run it was in.
"""

import gzip
import shutil
from pathlib import Path

from vmferry.errors import UsageError
from vmferry.migration.journal import Entry, read_journal
from vmferry.perf.measure import Job, PerfRun
from vmferry.perf.records import FORMAT
from vmferry.study.record_file import RecordFile, open_private, read_records

RUNS_FILE = "runs.jsonl"
_AGAIN = ("error", "failed")
"""Runs that ended so are measured again. Cancelled ones stay: they came to the limits of their scenario."""


class ResultSet:
    """The runs in one directory, which is made if it is not there. Raises UsageError if it cannot be used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = RecordFile(directory / RUNS_FILE, FORMAT)

    @property
    def runs(self) -> list[PerfRun]:
        """What was measured; of jobs that were measured again, the last time."""
        return _latest(self._file.records)

    def journal_path(self, job: Job) -> Path:
        """Return where to write the journal while a job runs."""
        return self.directory / f"{job.label}.jsonl"

    def has(self, job: Job) -> bool:
        """Tell whether a job was measured, with all its limits; one that failed or could not be run was not."""
        return any(run.job == job and run.status not in _AGAIN for run in self.runs)

    def add(self, run: PerfRun) -> None:
        """Append a run and pack its journal."""
        journal = self.journal_path(run.job)
        if journal.exists():
            with (
                journal.open("rb") as plain,
                open(f"{journal}.gz", "wb", opener=open_private) as file,
                gzip.GzipFile("", "wb", mtime=0, fileobj=file) as packed,
            ):
                shutil.copyfileobj(plain, packed)
            journal.unlink()
        self._file.add(run)


def read_runs(directory: Path) -> list[PerfRun]:
    """Return the runs of a directory. Raises UsageError if there are none, or what is there is something else."""
    if not (directory / RUNS_FILE).exists():
        raise UsageError(f"{directory} is no directory of results, it has no {RUNS_FILE}")
    return _latest(list(read_records(directory / RUNS_FILE, FORMAT)))


def journal_name(run: PerfRun) -> str:
    """Return the name of the file that has the journal of a run, if it has one."""
    return f"{run.job.label}.jsonl.gz"


def run_entries(directory: Path, run: PerfRun) -> list[Entry]:
    """Return the journal of a run, empty if it has none. Raises UsageError if it is no journal."""
    path = directory / journal_name(run)
    return list(read_journal(path)) if path.exists() else []


def _latest(runs: list[PerfRun]) -> list[PerfRun]:
    return list({run.job.label: run for run in runs}.values())
