"""A directory of runs: it goes on after an interruption, and takes nothing for a result that is none."""

from pathlib import Path

import msgspec
import pytest

from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.parts import RunLimits
from vmferry.perf.batch import missing_jobs, troubles
from vmferry.perf.comparisons import comparisons, find_experiments, sweeping_guest
from vmferry.perf.labels import label
from vmferry.perf.measure import GuestSample, Job, PerfRun, lost_percent
from vmferry.perf.real_guest import require_real
from vmferry.perf.results import RUNS_FILE, ResultSet, read_runs, run_entries
from vmferry.simulation.run import simulate

SCENARIO = sweeping_guest().only("original")


def run_of(number: int, status: str = "completed", speed: float = 1000.0, scenario: Experiment = SCENARIO) -> PerfRun:
    samples = [GuestSample(0.5, [1, 2])]
    return PerfRun(job=Job("run", scenario, number), status=status, samples=samples, pages_per_s_before=speed)


def test_what_was_added_is_read_again(tmp_path: Path) -> None:
    results = ResultSet(tmp_path / "new" / "directory")
    results.add(run_of(0))
    results.add(run_of(1))
    assert read_runs(results.directory) == results.runs == [run_of(0), run_of(1)]


def test_journals_are_packed_and_read_back(tmp_path: Path) -> None:
    results = ResultSet(tmp_path)
    run = run_of(0)
    line = b'{"time-ns":5,"event":{"event":"status","old":"none","new":"setup"}}\n'
    results.journal_path(run.job).write_bytes(line)
    results.add(run)
    assert not results.journal_path(run.job).exists()
    assert [entry.time_ns for entry in run_entries(tmp_path, run)] == [5]
    assert run_entries(tmp_path, run_of(7)) == []


def test_a_torn_line_is_dropped_and_measured_again(tmp_path: Path) -> None:
    whole = msgspec.json.encode(run_of(0)) + b"\n"
    for cut in range(1, len(whole)):
        (tmp_path / RUNS_FILE).write_bytes(whole + whole[:cut].replace(b"\n", b""))
        results = ResultSet(tmp_path)
        assert results.runs == [run_of(0)]
        assert (tmp_path / RUNS_FILE).read_bytes() == whole


def test_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    results = ResultSet(tmp_path)
    results.add(run_of(0))
    results.add(run_of(1, status="error"))
    results.add(run_of(2, status="cancelled"))
    results.add(run_of(3, status="failed"))
    other = sweeping_guest().only("background-sync")
    jobs = missing_jobs([("run", SCENARIO), ("run", other)], 4, results)
    assert [(job.variant, job.number) for job in jobs] == [
        ("background-sync", 0),
        ("original", 1),
        ("background-sync", 1),
        ("background-sync", 2),
        ("original", 3),
        ("background-sync", 3),
    ]


def test_other_limits_are_measured_anew_and_replace_what_was(tmp_path: Path) -> None:
    results = ResultSet(tmp_path)
    results.add(run_of(0, status="cancelled"))
    patient = msgspec.structs.replace(SCENARIO, limits=RunLimits(max_iterations=1000))
    assert missing_jobs([("run", SCENARIO)], 1, results) == []
    assert missing_jobs([("run", patient)], 1, results) == [Job("run", patient, 0)]
    results.add(run_of(0, scenario=patient))
    assert missing_jobs([("run", patient)], 1, results) == []
    assert [run.status for run in results.runs] == ["completed"]


def test_a_repeat_measured_again_counts_once(tmp_path: Path) -> None:
    results = ResultSet(tmp_path)
    results.add(run_of(0, status="error"))
    results.add(run_of(0))
    assert [run.status for run in read_runs(tmp_path)] == ["completed"]


@pytest.mark.parametrize("content", [b"\x80\n", b"{}\n", b"[1]\n", b"no line", b"x" * (5 << 20)])
def test_a_file_that_is_none_of_ours_is_refused_and_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / RUNS_FILE).write_bytes(content)
    with pytest.raises(UsageError, match=r"runs\.jsonl:1"):
        ResultSet(tmp_path)
    assert (tmp_path / RUNS_FILE).read_bytes() == content


def test_no_file_elsewhere_is_taken_for_a_journal(tmp_path: Path) -> None:
    line = msgspec.json.encode(run_of(0)).replace(b'"run"', b'"../../etc/passwd"')
    (tmp_path / RUNS_FILE).write_bytes(line + b"\n")
    with pytest.raises(UsageError, match=r"runs\.jsonl:1.*no label"):
        read_runs(tmp_path)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="file/results"):
        ResultSet(tmp_path / "file" / "results")


def test_a_guest_unlike_the_others_is_named() -> None:
    runs = [run_of(0), run_of(1), run_of(2, speed=500), run_of(3, status="error", speed=0)]
    assert troubles(runs) == {runs[2].job.label: ["the guest ran at 50% of the usual speed before"]}


def test_every_named_scenario_can_be_run_and_has_a_label_of_its_own() -> None:
    for name, scenarios in comparisons().items():
        labels = [label(scenario) for scenario in scenarios]
        assert len(set(labels)) == len(labels), name
        for scenario in scenarios:
            require_real(scenario)


def test_scenarios_are_found_by_glob() -> None:
    assert len(find_experiments("seed/*")) == 9
    assert len(find_experiments("seed*/background-sync+responsive*")) == 6
    with pytest.raises(UsageError, match="--list"):
        find_experiments("nothing/*")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"stress_bytes": 0}, "0 B"),
        ({"stress_bytes": 1 << 30}, "1 GiB"),
        ({"time_scale": 0}, "time-scale is 0"),
        ({"downtime_limit_ms": 3_000_000}, "downtime_limit"),
    ],
)
def test_impossible_scenarios_are_refused(settings: dict[str, int], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        require_real(sweeping_guest(**settings))


def test_a_scenario_is_an_experiment_that_a_model_can_run_as_well() -> None:
    experiment = sweeping_guest(memory_bytes=64 << 20, stress_bytes=8 << 20, time_scale=10).only("background-sync")
    experiment = experiment.with_settings({"load.write-rate": "100MiB/s", "parameters.max-bandwidth": "33554432"})
    assert simulate(experiment, "background-sync").completed


def test_what_a_guest_lost_is_unknown_if_it_did_nothing_before() -> None:
    samples = [GuestSample(0.0, [100, 0]), GuestSample(2.0, [1000, 600])]
    assert lost_percent(1000.0, samples) == pytest.approx(25)
    assert lost_percent(0.0, samples) is None
