"""Journals on disk: nothing that is there is lost, what a crash leaves is read, and only the owner may look."""

import gzip
import os
import stat
import threading
from itertools import pairwise
from pathlib import Path

import pytest

from vmferry.errors import UsageError
from vmferry.migration import journal as journal_module
from vmferry.migration.events import Event, StatusChanged, SwitchoverBegan
from vmferry.migration.journal import Entry, FileJournal, read_journal
from vmferry.migration.status import MigrationStatus as Status

EVENTS: list[Event] = [
    StatusChanged(old=Status.NONE, new=Status.SETUP),
    SwitchoverBegan(remaining_bytes=1, threshold_bytes=2),
    StatusChanged(old=Status.SETUP, new=Status.FAILED, reason="why\nnot"),
]
ENTRIES = [Entry(number, event) for number, event in enumerate(EVENTS)]


def write(path: Path, entries: list[Entry] = ENTRIES) -> bytes:
    with FileJournal(path) as journal:
        for entry in entries:
            journal.record(entry.time_ns, entry.event)
    return path.read_bytes()


def test_a_journal_that_is_there_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    once = write(path)
    assert write(path) == once * 2
    assert list(read_journal(path)) == ENTRIES * 2


@pytest.mark.parametrize("content", [b"precious record\n", b"precious", b'{"name": "x"}\n', b"\n", b"x" * 100_000])
def test_anything_else_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "precious"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="precious' is there and is no journal"):
        FileJournal(path)
    assert path.read_bytes() == content


def test_an_empty_file_and_a_device_can_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    write(tmp_path / "empty")
    write(Path(os.devnull))
    assert list(read_journal(tmp_path / "empty")) == ENTRIES


def test_wherever_a_crash_cut_it_off_whole_lines_are_read_and_continued(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = write(path)
    first = whole.index(b"\n") + 1
    for size_bytes in range(first, len(whole)):
        told: list[str] = []
        path.write_bytes(whole[:size_bytes])
        count = whole[:size_bytes].count(b"\n")
        read = list(read_journal(path, told.append))
        complete = whole[size_bytes : size_bytes + 1] == b"\n"  # only the line's end is missing
        assert read == ENTRIES[: count + complete]
        torn = not complete and not whole[:size_bytes].endswith(b"\n")
        assert told == ([f"{path}: its last line, number {count + 1}, is cut off and left out"] if torn else [])
        assert write(path) == b"".join(whole.splitlines(keepends=True)[:count]) + whole


def test_a_packed_one_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "journal.gz"
    packed = gzip.compress(write(tmp_path / "journal", ENTRIES * 100))
    path.write_bytes(packed[: len(packed) - 9])
    told: list[str] = []
    read = list(read_journal(str(path), told.append))
    assert read == (ENTRIES * 100)[: len(read)]
    assert len(told) == 1
    assert "cut off" in told[0]


@pytest.mark.parametrize("content", [b"no journal", b"no journal\n", b"[" * 70_000])
def test_what_never_was_a_journal_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "journal").write_bytes(content)
    with pytest.raises(UsageError, match="journal:1: not a journal"):
        list(read_journal(tmp_path / "journal"))


def test_only_a_last_line_may_be_broken(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = write(path)
    path.write_bytes(whole[:-10] + b"\n" + whole)
    with pytest.raises(UsageError, match="journal:3: not a journal entry"):
        list(read_journal(path))


def test_a_number_that_nobody_can_reckon_with_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(write(path).replace(b'"remaining-bytes":1', b'"remaining-bytes":1' + b"0" * 400))
    with pytest.raises(UsageError, match="journal:2: not a journal entry: a number has 100 digits or more"):
        list(read_journal(path))


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        write(tmp_path / "journal")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o600


def test_how_a_migration_ended_is_put_on_the_disk_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _descriptor: synced.append(path.read_text().splitlines()[-1]))
    course = [Status.SETUP, Status.ACTIVE, Status.DEVICE, Status.COMPLETED]
    with FileJournal(path) as journal:
        for old, new in pairwise(course):
            journal.record(0, StatusChanged(old=old, new=new))
    [last] = synced
    assert '"new":"completed"' in last


def test_a_hand_over_is_on_the_disk_before_the_guest_is_stopped_unless_the_disk_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal"
    synced: list[str] = []
    disk_answers = threading.Event()

    def fsync(_descriptor: int) -> None:
        disk_answers.wait(20)
        synced.append(path.read_text())

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(journal_module, "_SYNC_S", 20)
    disk_answers.set()
    with FileJournal(path) as journal:
        journal.record(1, SwitchoverBegan(remaining_bytes=1, threshold_bytes=2))
        assert ['"event":"switchover"' in text for text in synced] == [True]
        monkeypatch.setattr(journal_module, "_SYNC_S", 0.01)
        disk_answers.clear()
        journal.record(2, SwitchoverBegan(remaining_bytes=1, threshold_bytes=2))  # returns all the same
        assert len(synced) == 1
        disk_answers.set()
    assert len(synced) == 2
