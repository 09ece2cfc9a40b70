"""`vmferry perf` as its user sees it."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
from contextlib import suppress
from io import FileIO
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings

from tests.support.hostile import tampered
from tests.support.policies import LADDER, write_policy
from tests.support.wait import wait_until
from vmferry.cli.perf import batch, command
from vmferry.cli.types import RATE_WITH_UNIT
from vmferry.errors import UsageError
from vmferry.experiment.own_variants import policy_variant
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.events import Started
from vmferry.migration.journal import FileJournal
from vmferry.perf.comparisons import find_experiments, sweeping_guest
from vmferry.perf.measure import GuestSample, Job, PerfRun
from vmferry.perf.results import RUNS_FILE, ResultSet, read_runs, run_entries
from vmferry.simulation.run import simulate
from vmferry.study.compare import runs_needed

SIMULATED = parse_scenario(
    b"""
    name = "quick"
    guest = { memory = "16M", vcpus = 2, loads = [{ pattern = "sweep", memory = "8M", write-rate = "100MiB/s" }] }
    link = { rate = "10MiB/s" }
    """,
    "quick",
)


def perf(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def results(directory: Path, *total_times_ms: int, status: str = "completed") -> Path:
    kept = ResultSet(directory)
    for number, time_ms in enumerate(total_times_ms):
        job = Job("seed", sweeping_guest().only("original"), number)
        kept.add(PerfRun(job=job, status=status, total_time_ms=time_ms, pages_per_s_before=1000))
    return directory


def test_the_scenarios_of_a_glob_are_listed() -> None:
    lines = perf("batch", "seed/*", "--list").output.splitlines()
    assert len(lines) == 9
    assert lines[0] == "seed/original_2cpu_45MiB-of-2048MiB_60MiBps_500ms"


def test_two_sets_are_compared(tmp_path: Path) -> None:
    before = results(tmp_path / "before", 100, 101, 102, 103)
    after = results(tmp_path / "after", 50, 51, 52, 53)
    answer = perf("compare", before, after)
    assert answer.exit_code == 0
    [line] = [line for line in answer.output.splitlines() if line.startswith("total time ms")]
    assert line.split() == ["total", "time", "ms", "101.5", "51.5", "0.51", "0.03", "-1.00", "less"]
    assert all(len(line) <= 80 for line in answer.output.splitlines())
    assert answer.output.endswith("runs: 4 and 4\n")


def test_a_comparison_says_how_many_runs_there_are_and_how_many_it_needs(tmp_path: Path) -> None:
    before, after = results(tmp_path / "before", 100, 101, 102), results(tmp_path / "after", 50, 51)
    kept = ResultSet(after)
    kept.add(PerfRun(job=Job("seed", sweeping_guest().only("original"), 2), status="completed", flags=["odd"]))
    lines = perf("compare", before, after).output.splitlines()
    assert lines[-2:] == [
        "runs: 3 and 3 (1 of 3 flagged)",
        "Too few runs to tell every difference; 4 of each are enough.",
    ]
    first = msgspec.json.decode(perf("compare", "--json", before, after).output.splitlines()[0])
    assert (first["runs"], first["flagged_runs"]) == ([3, 3], [0, 1])


def test_a_batch_measures_often_enough_for_a_comparison() -> None:
    default = next(option for option in batch.params if option.name == "repeats").default
    assert isinstance(default, int)
    assert default >= runs_needed()


def test_comparisons_are_for_scripts_too(tmp_path: Path) -> None:
    before, after = results(tmp_path / "before", 100), results(tmp_path / "after", 50)
    first = msgspec.json.decode(perf("compare", "--json", before, after).output.splitlines()[0])
    assert first["figure"] == "total_time_ms"
    assert first["ratio"] == 0.5
    assert first["verdict"] == "less (too few runs)"


def test_runs_that_did_not_complete_are_not_compared(tmp_path: Path) -> None:
    before, after = results(tmp_path / "before", 100), results(tmp_path / "after", 50, status="failed")
    answer = perf("compare", before, after)
    assert "no scenario in common" in str(answer.exception)


def test_results_become_a_page_by_load(tmp_path: Path) -> None:
    kept = ResultSet(tmp_path / "results")
    for stress_mib, variant in ((4, "original"), (8, "original"), (8, "background-sync")):
        job = Job("run", sweeping_guest(stress_bytes=stress_mib << 20).only(variant), 0)
        with FileJournal(kept.journal_path(job)) as record:
            for entry in simulate(SIMULATED, variant).entries:
                record.record(entry.time_ns, entry.event)
        samples = [GuestSample(0.0, [0, 0]), GuestSample(1.0, [100, 200])]
        kept.add(PerfRun(job=job, status="completed", samples=samples))
    answer = perf("report", kept.directory, "--html", tmp_path / "page.html")
    assert answer.exit_code == 0, answer.output
    text = (tmp_path / "page.html").read_text()
    assert text.count("<section>") == 2
    assert text.count('aria-label="Guest&#x27;s work, measured: pages/s"') == 2
    assert "<h2>2 vCPUs rewrite 8 MiB of 1 GiB, link not limited, downtime limit 500 ms</h2>" in text
    assert "2 vCPUs rewrite 4 MiB of 1 GiB" in answer.stdout


def test_medians_are_shown_as_shares_of_the_first_variant(tmp_path: Path) -> None:
    kept = ResultSet(tmp_path)
    for variant, status, times_ms in (
        ("background-sync", "completed", (200, 300, 250)),
        ("original", "completed", (500, 400, 1000)),
        ("original", "failed", (1,)),
    ):
        for time_ms in times_ms:
            job = Job("run", sweeping_guest().only(variant), time_ms)
            kept.add(PerfRun(job=job, status=status, total_time_ms=time_ms * 1000, downtime_ms=7))
    lines = perf("report", tmp_path).stdout.partition("medians of completed runs")[2].splitlines()
    assert lines[2].split() == ["original", "500.0", "1.00", "400.0", "1000.0", "7", "-"]
    assert lines[3].split() == ["background-sync", "250.0", "0.50", "200.0", "300.0", "7", "-"]


def test_the_page_has_flagged_and_failed_runs_with_their_reasons(tmp_path: Path) -> None:
    kept = ResultSet(tmp_path / "results")
    flagged = Job("run", sweeping_guest().only("original"), 0)
    with FileJournal(kept.journal_path(flagged)) as record:
        for entry in simulate(SIMULATED, "original").entries:
            record.record(entry.time_ns, entry.event)
    host = {"cpus": "2", "kernel": "6.1", "vmferry": "9.9"}
    kept.add(PerfRun(job=flagged, status="completed", flags=["a vCPU <slept>"], work_lost_percent=41.6,
                     total_time_ms=2000, host=host))  # fmt: skip
    failed = Job("run", sweeping_guest().only("background-sync"), 1)
    kept.add(PerfRun(job=failed, status="failed", error="the link broke", total_time_ms=7, host=host))
    assert perf("report", kept.directory, "--html", tmp_path / "page.html").exit_code == 0
    text = (tmp_path / "page.html").read_text()
    assert '<p class="note">Measured on 2 CPUs, Linux 6.1, vmferry 9.9.</p>' in text
    assert "1 of 2 migrations completed, not: background-sync (0 of 1)." in text
    assert text.count('<span class="warning">!</span></th>') == 2
    assert "<li>run 0: a vCPU &lt;slept&gt;</li>" in text
    assert "<li>run 1: the link broke</li>" in text
    assert '<td data-name="guest&#x27;s work lost">42 % (1.7 vCPU s)</td>' in text
    assert '<td data-name="guest&#x27;s work lost">unknown</td>' in text
    assert '<td data-name="status">failed</td>' in text


def test_a_page_of_runs_that_all_failed_has_their_reasons(tmp_path: Path) -> None:
    directory = results(tmp_path / "results", 0, status="error")
    assert perf("report", directory, "--html", tmp_path / "page.html").exit_code == 0
    text = (tmp_path / "page.html").read_text()
    assert "The migration could not be run: " in text
    assert 'class="plot"' not in text


def test_a_guest_unlike_the_others_is_marked_in_its_row(tmp_path: Path) -> None:
    kept = ResultSet(tmp_path)
    for number, speed in enumerate((1000, 1000, 500)):
        job = Job("run", sweeping_guest().only("original"), number)
        kept.add(PerfRun(job=job, status="completed", total_time_ms=1000, pages_per_s_before=speed))
    rows = [line for line in perf("report", tmp_path).stdout.splitlines() if line.startswith("original")]
    assert [row.endswith("!") for row in rows[:3]] == [False, False, True]


def test_what_is_in_the_directory_is_shown_and_not_measured_again(tmp_path: Path) -> None:
    pattern = "seed/original_2cpu_45M*"
    [(_, scenario)] = find_experiments(pattern)
    kept = ResultSet(tmp_path)
    kept.add(PerfRun(job=Job("seed", scenario, 0), status="completed", total_time_ms=12_300, flags=["odd"]))
    answer = perf("batch", pattern, "--repeats", 1, "--output", tmp_path)
    assert answer.exit_code == 0
    assert "0 runs to measure" in answer.stderr
    assert "12.3" in answer.stdout
    assert "odd" in answer.stdout


def test_a_failed_run_is_exit_code_1(tmp_path: Path) -> None:
    pattern = "seed/original_2cpu_45M*"
    [(_, scenario)] = find_experiments(pattern)
    kept = ResultSet(tmp_path)
    kept.add(PerfRun(job=Job("seed", scenario, 0), status="cancelled", error="it took too long"))
    answer = perf("batch", pattern, "--repeats", 1, "--output", tmp_path)
    assert answer.exit_code == 1
    assert "it took too long" in answer.stdout


RUN = msgspec.to_builtins(
    PerfRun(
        job=Job("run", sweeping_guest().only("original"), 0),
        status="completed",
        error="an error",
        flags=["odd"],
        total_time_ms=2000,
        pages_per_s_before=1000.0,
        samples=[GuestSample(0.0, [0, 0]), GuestSample(1.0, [100, 200])],
        host={"cpus": "2"},
    )
)


@settings(max_examples=200, deadline=None)
@given(tampered(RUN))
def test_any_record_is_shown_or_refused(record: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / RUNS_FILE).write_text("".join(f"{json.dumps(line)}\n" for line in (RUN, record)))
        for words in (["report", name], ["report", name, "--html", directory / "page.html"], ["compare", name, name]):
            answer = perf(*words)
            assert answer.exception is None or isinstance(answer.exception, UsageError), answer.exception
            assert all(line.isprintable() for line in answer.output.splitlines())


def test_what_is_not_known_of_a_run_is_no_figure(tmp_path: Path) -> None:
    job = Job("run", sweeping_guest().only("original"), 0)
    ResultSet(tmp_path).add(PerfRun(job=job, status="error", error="the VM did not start"))
    [line] = [line for line in perf("report", tmp_path).stdout.splitlines() if line.startswith("original")]
    assert line.split() == ["original", "error", "-", "-", "-", "-", "-", "!"]


def test_a_time_that_is_not_known_is_none_of_the_shortest(tmp_path: Path) -> None:
    kept = ResultSet(tmp_path)
    for number, time_ms in enumerate((None, None, 5000)):
        variant = "original" if number == 0 else "background-sync"
        job = Job("run", sweeping_guest().only(variant), number)
        kept.add(PerfRun(job=job, status="completed", total_time_ms=time_ms))
    lines = perf("report", tmp_path).stdout.partition("medians of completed runs")[2].splitlines()
    assert lines[2].split() == ["original", "-", "-", "-", "-", "-", "-"]
    assert lines[3].split() == ["background-sync", "5.0", "-", "5.0", "5.0", "-", "-"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["batch", "nothing/*", "--output", "x"], "nothing/*"),
        (["batch", "seed/*"], "--output"),
        (["run", "--mem", "64M", "--stress-mem", "64M", "--output", "x"], "64 MiB"),
        (["run", "--variant", "fast", "--output", "x"], "fast"),
        (["run", "seed-0150", "--mem", "64M", "--output", "x"], "--mem"),
        (
            ["run", "bench/hot-cold.toml", "--output", "x"],
            "no real guest has pattern = 'hot-cold'; there are: sweep, moving",
        ),
        (["compare", "/nowhere", "/nowhere"], "/nowhere"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(arguments: list[str], named: str) -> None:
    text = str(perf(*arguments).exception)
    assert named in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("option", "number", "remedy"),
    [("--bandwidth", "500", "500MiB/s"), ("--mem", "1", "1G"), ("--stress-mem", "1.5", "1G")],
)
def test_numbers_that_guestperf_reads_in_another_unit_are_refused(option: str, number: str, remedy: str) -> None:
    answer = perf("run", option, number, "--output", "x")
    assert answer.exit_code == 2
    assert f"'{number}' has no unit; write for example {remedy}" in answer.output


def test_no_bandwidth_needs_no_unit() -> None:
    assert RATE_WITH_UNIT.convert("0", None, None) == 0


def test_a_policy_that_a_record_names_is_not_run(tmp_path: Path) -> None:
    text = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n" + LADDER
    own = policy_variant(write_policy(tmp_path, text), {})
    job = Job("run", sweeping_guest().choosing((), [own]).only(own.name), 0)
    ResultSet(tmp_path / "results").add(PerfRun(job=job, status="error", error="it did not start"))
    (tmp_path / "ran").unlink()
    assert own.name.partition("@")[0] in perf("report", tmp_path / "results").stdout
    assert not (tmp_path / "ran").exists()


@pytest.mark.kvm
def test_a_scenario_is_measured_as_its_file_says(tmp_path: Path) -> None:
    write_policy(tmp_path)
    (tmp_path / "busy.toml").write_text(
        """
        name = "busy"
        guest = { memory = "64M", vcpus = 2, loads = [{ pattern = "sweep", memory = "16M" }] }
        link = { rate = "64MiB/s", share = 0.5 }
        parameters = { downtime-limit = 50 }
        variants = ["stepwise"]
        time-scale = 10
        [[variant]]
        name = "stepwise"
        policy = "ladder.py:Ladder"
        settings = { step = 30 }
        """
    )
    answer = perf("run", tmp_path / "busy.toml", "--output", tmp_path / "results", "--json")
    assert answer.exit_code == 0, answer.output
    [run] = read_runs(tmp_path / "results")
    [started, *_] = [entry.event for entry in run_entries(tmp_path / "results", run)]
    assert isinstance(started, Started)
    assert run.job.label == "run_stepwise_busy_0"
    assert started.parameters["max-bandwidth"] == 32 << 20
    assert str(started.parameters["policy-settings"]) == "step=30"
    assert run.max_throttle_percent in (30, 60, 90, 99)


SMALL_BATCH = """
from msgspec.structs import replace

from vmferry.cli.main import main
from vmferry.perf import comparisons

quick = comparisons.comparisons()["seed-quick"]
small = [replace(each, guest=replace(each.guest, memory_bytes=64 << 20)) for each in quick]
comparisons.comparisons = lambda: {"seed-quick": small}
main()
"""


@pytest.mark.kvm
def test_a_batch_that_is_interrupted_goes_on(tmp_path: Path) -> None:
    """Ctrl-C at a terminal reaches every process in its foreground, not only ours."""
    pattern = "seed-quick/background-sync*_4MiB-*"
    words = [sys.executable, "-c", SMALL_BATCH, "perf", "batch", pattern, "--repeats", "1", "--output", str(tmp_path)]
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as terminal:
        batch = subprocess.Popen(
            words, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, preexec_fn=_own_terminal
        )
        os.close(theirs)
        _read_until(terminal, b"2/2 ")
        os.write(terminal.fileno(), b"\x03")
        _read_until(terminal, b"interrupted; the same command goes on, the 1 runs so far")
        assert batch.wait() == 130
    answer = subprocess.run(words, capture_output=True, text=True)
    assert "1 runs to measure, 1 are in" in answer.stderr
    assert answer.returncode == 0, answer.stdout
    assert [run.status for run in ResultSet(tmp_path).runs] == ["completed"] * 2


@pytest.mark.kvm
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_vm_outlives_what_measures_it(tmp_path: Path, ending: signal.Signals) -> None:
    words = [sys.executable, "-m", "vmferry", "perf", "run", "--stress-mem", "16M", "--mem", "64M", "--output", "kept"]
    # The VMs' sockets are in the temporary directory, which is in their command lines.
    with subprocess.Popen(words, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}) as measuring:
        wait_until(lambda: len(_processes_of(tmp_path)) == 2)
        measuring.send_signal(ending)
    assert measuring.returncode == (128 + ending if ending != signal.SIGKILL else -signal.SIGKILL)
    wait_until(lambda: not _processes_of(tmp_path))


def _processes_of(directory: Path) -> list[Path]:
    """Return the processes that have a file of the directory in their command lines."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            if os.fsencode(directory) in path.read_bytes():
                found.append(path)
    return found


def _own_terminal() -> None:
    """Make the terminal on stdin the one that this process's signals come from."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read_until(terminal: FileIO, text: bytes) -> None:
    seen = b""
    while text not in b" ".join(seen.split()):
        read = terminal.read(4096)
        assert read, f"the program has ended without {text!r}: {seen!r}"
        seen += read
