"""`vmferry report` on the command line."""

import gzip
import json
import os
import stat
import tempfile
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given, settings

from tests.report.test_series import COURSE, journal, synced
from tests.support.command_line import run
from tests.support.hostile import tampered
from vmferry.cli.replay import command as replay
from vmferry.cli.report import command
from vmferry.errors import VmferryError
from vmferry.migration.events import Event, Measured, ThrottleSeen
from vmferry.migration.journal import Entry, FileJournal


def write(path: Path, entries: list[Entry]) -> str:
    with FileJournal(path) as record:
        for entry in entries:
            record.record(entry.time_ns, entry.event)
    return str(path)


def report(*words: str) -> str:
    answer = run("report", *words)
    assert (answer.returncode, answer.stderr) == (0, "")
    return answer.stdout


def test_the_text_tells_what_happened_and_why(tmp_path: Path) -> None:
    text = report(write(tmp_path / "a.journal", journal(*COURSE)))
    assert text.startswith("background-sync\n")
    assert f"readfrom{tmp_path}/a.journal" in "".join(text.split())
    assert "completed in 20 s with 2 s of downtime; the throttle took 19 %" in text
    assert "downtime 2 s: stop 1000.0 ms, ram 1000.0 ms" in text
    assert "19.0 % of the guest's work lost, 15.2 vCPU s" in text
    assert "      8.0 s  start of 2  because\n" in text
    assert "     12.0 s  in 2        too?much?[31m\n" in text


def test_all_migrations_of_all_journals_are_told_in_80_columns(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    twice = write(tmp_path / "a.journal", journal(*COURSE, *COURSE[:-1]))
    same_name = write(tmp_path / "b" / "a.journal", journal(*COURSE))
    text = report(twice, same_name)
    assert text.startswith("2 of 3 migrations completed")
    for name in ("background-sync, migration 1 of a.journal", "background-sync, migration 2 of a.journal"):
        assert name in text
    assert "2 of 3 completed" in text
    assert "".join(same_name.split()) in "".join(text.split())  # long paths are broken anywhere
    assert "the journal ends before the migration does" in " ".join(text.split())
    assert max(map(len, text.splitlines())) <= 80


def test_figures_for_scripts(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    write(path, journal(*COURSE))
    packed = tmp_path / "a.journal.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    figures = json.loads(report(str(packed), "--json"))
    assert (figures["label"], figures["source"]) == ("background-sync", str(packed))
    assert (figures["total_time_ms"], figures["downtime_ms"]) == (20_000, 2000)
    assert figures["work_lost_vcpu_s"] == pytest.approx(15.2)
    assert [decision["throttle_percent"] for decision in figures["decisions"]] == [20, 50]


def test_page_and_picture_instead_of_the_text(tmp_path: Path) -> None:
    path = write(tmp_path / "a.journal", journal(*COURSE))
    picture, page = tmp_path / "a.svg", tmp_path / "a.html"
    assert len(report(path, "--picture", str(picture), "--html", str(page)).splitlines()) == 1
    assert picture.read_text().endswith("</svg>\n")
    assert "<h1>Migration: background-sync</h1>" in page.read_text()


def test_a_journal_that_is_cut_off_in_its_last_line_is_told_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "torn"
    write(path, journal(*COURSE))
    path.write_bytes(path.read_bytes()[:-37])
    answer = run("report", str(path))
    assert answer.returncode == 0
    assert answer.stderr == f"vmferry: {path}: its last line, number {len(COURSE)}, is cut off and left out\n"
    assert "the journal ends before the migration does" in " ".join(answer.stdout.split())


def test_pages_and_pictures_may_be_read_by_others_but_not_written(tmp_path: Path) -> None:
    path = write(tmp_path / "a.journal", journal(*COURSE))
    umask = os.umask(0)
    try:
        report(path, "--picture", str(tmp_path / "a.svg"), "--html", str(tmp_path / "a.html"))
    finally:
        os.umask(umask)
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("a.svg", "a.html")} == {0o644}


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", journal(*COURSE[1:]))
    noise = tmp_path / "noise"
    noise.write_bytes(b"\0\xff<script>\n")
    for words, complaint in (
        ([empty], f"{empty}: no migration began in it; give the journal of a source"),
        (["/nowhere"], "cannot read the journal /nowhere: No such file or directory"),
        ([str(noise)], f"{noise}:1: not a journal entry"),
        ([empty, "--picture", "a.png"], "'a.png' is no name for a picture"),
    ):
        answer = run("report", *words)
        assert answer.returncode == 2
        assert answer.stderr.startswith(f"vmferry: {complaint}")
        assert answer.stderr.count("\n") == 1


OUTSIDE: list[tuple[float, Event]] = [
    (8.1, Measured(window_ns=10**9, dirty_pages=100, sync_count=0, mode="dirty-bitmap")),
    (8.2, msgspec.structs.replace(synced("iteration", 3, 50), duration_ns=None, waiting_pages=20)),
    (8.3, ThrottleSeen(throttle_percent=30)),
]
LINES = {"lines": msgspec.to_builtins(journal(*COURSE[:5], *OUTSIDE, *COURSE[5:]))}


@settings(max_examples=150, deadline=None)
@given(tampered(LINES))
def test_any_journal_is_told_or_refused(document: dict[str, object]) -> None:
    lines = document["lines"]
    with tempfile.TemporaryDirectory() as name:
        path = Path(name, "a.journal")
        path.write_text("".join(f"{json.dumps(line)}\n" for line in (lines if isinstance(lines, list) else ())))
        for told, words in (
            (command, ()),
            (command, ("--html", f"{name}/page.html")),
            (replay, ("--variant", "original")),
        ):
            answer = CliRunner().invoke(told, [str(path), *words])
            assert answer.exception is None or isinstance(answer.exception, VmferryError), answer.exception
            assert all(line.isprintable() for line in answer.output.splitlines())
