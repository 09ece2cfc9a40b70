"""Terminal, page, picture and JSON tell the same figures of the same migrations."""

import html
import json
import re
import statistics
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tests.report.test_series import COURSE, journal
from vmferry.cli.perf import command as perf
from vmferry.cli.report import command as report
from vmferry.migration.events import Ended
from vmferry.migration.journal import Entry, FileJournal
from vmferry.perf.comparisons import sweeping_guest
from vmferry.perf.measure import GuestSample, Job, PerfRun, _recorded_figures
from vmferry.perf.results import ResultSet
from vmferry.report.figures import distance_text, error_text, lost_text, median, time_text
from vmferry.report.journal_runs import run_series

RUNS = ((20_399_999_999, 64_900_000, 48.4), (21_600_000_000, 12_400_000, 56.1), (25_000_000_001, 11_999_999, 48.9))
"""Total time and downtime in ns, and what the guest lost, as it was measured; none of them round."""


def migration(total_ns: int, downtime_ns: int) -> list[Entry]:
    *course, (_, end) = COURSE
    assert isinstance(end, Ended)
    end = msgspec.structs.replace(end, total_time_ns=total_ns, downtime_ns=downtime_ns)
    return journal(*course, (total_ns / 1e9, end))


def write(path: Path, entries: list[Entry]) -> Path:
    with FileJournal(path) as record:
        for entry in entries:
            record.record(entry.time_ns, entry.event)
    return path


def text_of(page: str) -> str:
    """Return what a browser shows of a page, without the scripts."""
    without_scripts = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", " ", without_scripts)).replace("\xa0", " ")


@pytest.mark.parametrize("number", range(len(RUNS)))
def test_one_journal(tmp_path: Path, number: int) -> None:
    total_ns, downtime_ns, _ = RUNS[number]
    path = write(tmp_path / "j", migration(total_ns, downtime_ns))
    figures = json.loads(CliRunner().invoke(report, [str(path), "--json"]).stdout)
    text = " ".join(CliRunner().invoke(report, [str(path)]).stdout.split())
    words = ["--html", f"{tmp_path}/p.html", "--picture", f"{tmp_path}/p.svg"]
    one_line = CliRunner().invoke(report, [str(path), *words]).stdout
    page, picture = text_of((tmp_path / "p.html").read_text()), (tmp_path / "p.svg").read_text()
    assert (figures["total_time_ms"], figures["downtime_ms"]) == (total_ns // 10**6, downtime_ns // 10**6)
    when = f"in {time_text(figures['total_time_ms'])} with {time_text(figures['downtime_ms'])} of downtime"
    for told in (text, one_line, page, " ".join(text_of(picture).split())):
        assert when in told
        assert f"{figures['work_lost_percent']:.0f} % of the guest's work" in told
    assert f"{figures['work_lost_percent']:.1f} % of the guest's work lost, {figures['work_lost_vcpu_s']:.1f}" in text
    cells = (time_text(figures["total_time_ms"]), time_text(figures["downtime_ms"]))
    assert all(f"> {cell} <" in f"> {page} <".replace("  ", " > <") or cell in page for cell in cells)
    assert lost_text(run_series(migration(total_ns, downtime_ns), "").outcome) in page


@pytest.mark.parametrize("count", [1, 2, 3])
def test_medians_of_measured_runs(tmp_path: Path, count: int) -> None:
    kept = ResultSet(tmp_path / "results")
    for number, (total_ns, downtime_ns, lost) in enumerate(RUNS[:count]):
        job = Job("run", sweeping_guest().only("original"), number)
        path = write(kept.journal_path(job), migration(total_ns, downtime_ns))
        samples = [GuestSample(time_s, [round(time_s * 1000)]) for time_s in (0, 10, 20)]
        kept.add(PerfRun(job=job, samples=samples, **_recorded_figures(path, lost)))
    directory = str(tmp_path / "results")
    runs = [json.loads(line) for line in CliRunner().invoke(perf, ["report", directory, "--json"]).stdout.splitlines()]
    terminal = CliRunner().invoke(perf, ["report", directory, "--html", f"{tmp_path}/p.html"]).stdout
    page = text_of((tmp_path / "p.html").read_text())
    times = [run["total_time_ms"] for run in runs]
    total, downtime, lost = (
        statistics.median(run[name] for run in runs) for name in ("total_time_ms", "downtime_ms", "work_lost_percent")
    )
    between = f" ({time_text(min(times))} to {time_text(max(times))})" if count > 1 else ""
    assert f"in {time_text(total)}{between} with {time_text(downtime)} of downtime" in page
    assert f"{count} of {count} completed, {time_text(total)}{between}" in page
    assert f"the migration took {lost:.0f} % of the guest's work" in page
    if count > 1:
        [row] = re.findall(r"^original +(\S+) +1\.00 +\S+ +\S+ +(\S+) +(\S+) *$", terminal, re.MULTILINE)
        assert row == (f"{total / 1000:.1f}", f"{downtime:.0f}", f"{lost:.0f}")


def test_there_is_one_median() -> None:
    assert median([1, None, 4]) == 2.5
    assert median([3, 1, 2]) == 2
    assert median([None]) is None


def test_the_answer_of_page_picture_text_and_json_is_the_same(tmp_path: Path) -> None:
    paths = [
        str(write(tmp_path / f"{number}", migration(total_ns, downtime_ns)))
        for number, (total_ns, downtime_ns, _) in enumerate(RUNS)
    ]
    runs = [json.loads(line) for line in CliRunner().invoke(report, [*paths, "--json"]).stdout.splitlines()]
    [label] = {run["label"] for run in runs}
    times = sorted(run["total_time_ms"] for run in runs)
    lost = sorted(run["work_lost_percent"] for run in runs)
    CliRunner().invoke(report, [*paths, "--html", f"{tmp_path}/p.html", "--picture", f"{tmp_path}/p.svg"])
    answers = {
        "text": CliRunner().invoke(report, paths).stdout,
        "page": text_of((tmp_path / "p.html").read_text()),
        "picture": text_of((tmp_path / "p.svg").read_text()),
    }
    for where, told in answers.items():
        words = " ".join(told.split())
        assert label in words, where
        assert f"{time_text(times[1])} ({time_text(times[0])} to {time_text(times[2])})" in words, where
        assert f"{lost[1]:.0f} % ({lost[0]:.0f} % to {lost[2]:.0f} %)" in words, where
        assert "3 of 3 completed" in words, where
    table = answers["page"]
    for run in runs:
        figures = (time_text(run["total_time_ms"]), time_text(run["downtime_ms"]), str(run["iteration_count"]))
        assert all(figure in table for figure in figures)
        for decision in run["decisions"]:
            assert all(" ".join(decision["reason"].split()) in " ".join(text.split())
                       for where, text in answers.items() if where != "picture")  # fmt: skip


@pytest.mark.parametrize(
    ("ratio", "text"), [(1, "+0%"), (0.87, "-13%"), (2, "+100%"), (9.42, "x 9.4"), (0.11, "x 0.11")]
)
def test_an_error_beyond_twice_or_half_is_told_as_a_factor(ratio: float, text: str) -> None:
    assert error_text(ratio) == text


def test_how_far_figures_are_apart_is_told_likewise() -> None:
    assert [distance_text(factor) for factor in (1.12, 9.42)] == ["12%", "a factor of 9.4"]
