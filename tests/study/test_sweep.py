"""Sweeps on real processes and a real cluster: all cases, whatever happens to some of them."""

import csv
import io
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pytest

import vmferry
from tests.support.policies import BROKEN, LADDER, write_policy
from tests.support.wait import wait_until
from vmferry.convergence.policies.registry import load_policy
from vmferry.errors import HostError, UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.own_variants import policy_variant
from vmferry.experiment.scenario import parse_scenario
from vmferry.simulation.run import SimulationResult
from vmferry.simulation.run import simulate as run_simulation
from vmferry.study import code as code_module
from vmferry.study import executors
from vmferry.study import sweep as sweep_module
from vmferry.study.code import own_code
from vmferry.study.executors import cluster, local_pool
from vmferry.study.sweep import Case, CaseResult, Results, Sweep, make_cases, run_case

QUICK = parse_scenario(
    b"""
    name = "quick"
    variants = ["original", "background-sync+responsive-throttle"]
    seeds = 2
    guest = { memory = "16M", vcpus = 2, loads = [{ pattern = "sweep", memory = "8M", write-rate = "100MiB/s" }] }
    link = { rate = "10MiB/s", jitter = 0.2 }
    """,
    "quick",
)
GRID = {"link.rate": ["10MiB/s", "30MiB/s"], "load.memory": ["4M", "8M", "12M"]}


def outcomes(results: list[CaseResult]) -> list[bytes]:
    return sorted(msgspec.json.encode(result) for result in results)


def swept(output: Path, executor: object = partial(local_pool, 2), cases: list[Case] | None = None) -> Sweep:
    sweep = Sweep(make_cases([QUICK], GRID, (), None) if cases is None else cases, output)
    sweep.run(executor, lambda: None)  # type: ignore[arg-type]
    return sweep


def test_a_grid_has_every_combination() -> None:
    cases = make_cases([QUICK], GRID, (), None)
    assert len(cases) == 2 * 3 * 2 * 2
    assert len({case.key for case in cases}) == len(cases)
    rates = {case.scenario.link.rate_bytes_per_s for case in cases if case.settings["link.rate"] == "30MiB/s"}
    assert rates == {30 << 20}
    assert {case.scenario.guest.loads[0].memory_bytes for case in cases} == {4 << 20, 8 << 20, 12 << 20}


def test_parameters_can_be_set_by_their_names() -> None:
    [case] = make_cases([QUICK], {"parameters.downtime-limit": ["77"], "link.jitter": ["0.5"]}, ("original",), 1)
    assert case.scenario.migration_parameters("original").downtime_limit == 77
    assert case.scenario.link.jitter == 0.5


def test_a_parameter_goes_before_the_variants() -> None:
    cases = make_cases([QUICK], {"parameters.background-sync": ["preserve", "merge"]}, ("background-sync",), 1)
    modes = [case.scenario.migration_parameters(case.variant).background_sync.value for case in cases]
    assert modes == ["preserve", "merge"]


@pytest.mark.parametrize(
    ("grid", "named"),
    [
        ({"rate": ["1"]}, "'rate' is no key"),
        ({"link.rat": ["1"]}, "rat"),
        ({"link.rate": ["fast"]}, "fast"),
        ({"parameters.downtime": ["1"]}, "downtime"),
        ({"guest.vcpus": ["many"]}, "vcpus"),
    ],
)
def test_what_cannot_be_set_is_named(grid: dict[str, list[str]], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        make_cases([QUICK], grid, (), None)


def test_every_case_is_simulated_as_it_would_be_alone(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "out.jsonl")
    assert outcomes(sweep.results) == outcomes([run_case(case) for case in sweep.cases.values()])


def test_what_is_done_is_not_simulated_again(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    first = swept(output)
    lines = output.read_bytes().splitlines(keepends=True)
    output.write_bytes(b"".join(lines[:5]) + lines[5][:40])
    again = Sweep(first.cases.values(), output)
    assert len(again.missing) == len(first.cases) - 5
    again.run(partial(local_pool, 2), lambda: None)
    assert outcomes(again.results) == outcomes(first.results)
    assert sorted(output.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_a_table_has_a_line_for_each_case_and_a_column_for_each_setting(tmp_path: Path) -> None:
    sweep = swept(tmp_path / "out.jsonl", cases=make_cases([QUICK], {"link.rate": ["10MiB/s", "30MiB/s"]}))
    rows = list(csv.DictReader(io.StringIO(sweep.results.to_csv())))
    assert {(row["link.rate"], row["variant"], row["seed"]) for row in rows} == {
        (case.settings["link.rate"], case.variant, str(case.seed)) for case in sweep.cases.values()
    }
    results = [result.result for result in sweep.results if result.result]
    assert [int(row["total_time_ms"]) for row in rows] == [result.total_time_ms for result in results]


def test_what_is_not_known_of_a_case_is_missing_in_its_table(tmp_path: Path) -> None:
    failed = CaseResult(key="", scenario="a,b", settings={}, variant="original", seed=1, error='it said "no"')
    results = Results([run_case(make_cases([QUICK])[0]), failed])
    second = list(csv.DictReader(io.StringIO(results.to_csv())))[1]
    assert (second["scenario"], second["error"], second["total_time_ms"]) == ("a,b", 'it said "no"', "")
    frame = results.to_frame()
    assert list(frame["total_time_ms"].isna()) == [False, True]
    assert str(frame["total_time_ms"].dtype) == "Int64"
    assert list(frame["seed"]) == [0, 1]


def test_a_frame_without_pandas_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match=r"pip install 'vmferry\[frames\]'"):
        Results().to_frame()


def test_a_changed_scenario_is_another_case(tmp_path: Path) -> None:
    swept(tmp_path / "out.jsonl", cases=make_cases([QUICK], {}, (), None))
    changed = QUICK.with_settings({"guest.vcpus": "1"})
    assert len(Sweep(make_cases([changed], {}, (), None), tmp_path / "out.jsonl").missing) == 4


def test_an_edited_policy_makes_another_case(tmp_path: Path) -> None:
    def sweep(text: str) -> Sweep:
        chosen = QUICK.choosing(["original"], [policy_variant(write_policy(tmp_path, text), {})])
        return Sweep(make_cases([chosen], {}, (), 1), tmp_path / "out.jsonl")

    sweep(LADDER).run(partial(local_pool, 1), lambda: None)
    assert not sweep(LADDER).missing
    edited = sweep(LADDER + "# edited\n")
    assert [case.variant.partition("@")[0] for case in edited.missing] == ["ladder.py:Ladder"]
    assert [result.variant for result in edited.results] == ["original"], "what the old one did is not shown as its"


def test_no_policy_goes_by_the_name_of_a_variant(tmp_path: Path) -> None:
    kind = load_policy(write_policy(tmp_path))
    grid = {"parameters.convergence-policy": [kind.reference], "parameters.background-sync": ["preserve", "off"]}
    results = [run_case(case) for case in make_cases([QUICK], grid, ("original",), 1)]
    assert [result.variant for result in results] == [kind.reference, f"{kind.reference} (background-sync=off)"]
    assert [result.result.variant for result in results if result.result] == [result.variant for result in results]


def test_a_case_whose_policy_is_broken_has_failed(tmp_path: Path) -> None:
    chosen = QUICK.choosing((), [policy_variant(write_policy(tmp_path, BROKEN), {})])
    [case] = make_cases([chosen], {"link.rate": ["1MiB/s"]}, (), 1)
    result = run_case(case)
    assert result.result is None
    assert result.error.startswith("the policy 'ladder.py:Ladder' is broken: it failed with ZeroDivisionError")


def test_edited_code_of_the_engine_makes_another_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [case] = make_cases([QUICK], {}, ("original",), 1)
    before = case.key
    shutil.copytree(Path(vmferry.__file__).parent, tmp_path / "copy")
    monkeypatch.setattr(code_module, "files", lambda package: tmp_path / "copy")
    own_code.cache_clear()
    assert case.key == before
    with (tmp_path / "copy" / "convergence" / "brain.py").open("a") as file:
        file.write("# edited\n")
    own_code.cache_clear()
    assert case.key != before
    own_code.cache_clear()


def test_a_case_is_the_same_whatever_others_its_scenario_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def keys(scenario: Experiment) -> set[str]:
        return {case.key for case in make_cases([scenario], {}, ("original",), 2)}

    before = keys(QUICK)
    assert before == keys(msgspec.structs.replace(QUICK, seeds=7, variants=("original",)))
    monkeypatch.setattr(sweep_module, "__version__", "another")
    assert not before & keys(QUICK), "another version may have other models"


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/null"), tmp_path / "pipe", tmp_path):
        with pytest.raises(UsageError, match=f"cannot write {path}: not a regular file"):
            Sweep([], path)


def test_interrupts_never_reach_the_processes_of_the_pool() -> None:
    with local_pool(1) as pool:
        assert signal.SIGINT in pool.submit(signal.pthread_sigmask, signal.SIG_BLOCK, []).result()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_another_file_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("my notes\n")
    with pytest.raises(UsageError, match="notes:1"):
        Sweep([], tmp_path / "notes")
    assert (tmp_path / "notes").read_text() == "my notes\n"


def test_a_failing_case_does_not_cost_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(scenario: Experiment, variant: str, seed: int) -> SimulationResult:
        if seed == 1:
            raise RuntimeError("a defect")
        return run_simulation(scenario, variant, seed)

    monkeypatch.setattr(sweep_module, "simulate", simulate)
    results = [run_case(case) for case in make_cases([QUICK], {}, (), None)]
    assert [result.error for result in results] == ["", "internal error: RuntimeError('a defect')"] * 2
    assert [result.result is None for result in results] == [False, True] * 2


def test_an_interruption_does_not_wait_for_what_runs() -> None:
    with suppress(KeyboardInterrupt), local_pool(1) as pool:
        waiting = pool.submit(time.sleep, 1000)
        wait_until(waiting.running)
        raise KeyboardInterrupt
    assert waiting.exception() is not None


def test_a_process_that_dies_does_not_end_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_module, "run_case", die_of_seed_1)
    monkeypatch.setattr(sweep_module, "_IN_FLIGHT", 1)
    sweep = swept(tmp_path / "out.jsonl", cases=make_cases([QUICK], {}, (), None))
    assert [bool(result.error) for result in sweep.results] == [False, True] * 2
    assert "gone: A process in the process pool was terminated" in sweep.results[1].error
    assert len(Sweep(sweep.cases.values(), tmp_path / "out.jsonl").missing) == 2


def die_of_seed_1(case: Case) -> CaseResult:
    if case.seed == 1:
        os._exit(9)
    return run_case(case)


@dataclass
class Cluster:
    """A dask scheduler and its workers, each a process of its own."""

    address: str
    scheduler: subprocess.Popen[str]


@pytest.fixture
def idle_dask() -> Iterator[Cluster]:
    """A scheduler without workers."""
    words = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen([*words, "--no-dashboard"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        address = next(found[0] for line in process.stderr if (found := re.search(r"tcp://[\d.]+:\d+", line)))
        try:
            yield Cluster(address, process)
        finally:
            process.kill()  # there is nothing to lose, and a polite end may wait for the others
            process.wait()
            process.stderr.close()


@pytest.fixture
def dask(idle_dask: Cluster, tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler with two workers."""
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", "--nthreads", "1", "--no-dashboard"]
    options = ["--local-directory", str(tmp_path / "dask"), "--no-nanny"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    workers = [subprocess.Popen([*worker, idle_dask.address, *options], **quiet) for _ in range(2)]  # type: ignore[call-overload]
    try:
        yield idle_dask
    finally:
        for started in workers:
            started.kill()
            started.wait()


def wait_for_workers(dask: Cluster) -> None:
    from distributed import Client

    with Client(dask.address, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        client.wait_for_workers(2, timeout=60)


def test_a_cluster_without_workers_is_said_to_be_one(idle_dask: Cluster) -> None:
    with pytest.raises(HostError, match=f"{idle_dask.address} has no workers; start some"), cluster(idle_dask.address):
        pass


def test_a_cluster_gives_the_same_results(dask: Cluster, tmp_path: Path) -> None:
    wait_for_workers(dask)
    policy = policy_variant(write_policy(tmp_path), {})
    (tmp_path / "ladder.py").unlink()
    cases = make_cases([QUICK], GRID) + make_cases([QUICK.choosing((), [policy])], {"policy.step": ["20", "40"]})
    there = swept(tmp_path / "there.jsonl", partial(cluster, dask.address), cases)
    here = swept(tmp_path / "here.jsonl", cases=cases)
    assert len(there.results) == 28
    assert all(result.result for result in there.results)
    assert outcomes(there.results) == outcomes(here.results)


def test_a_cluster_that_is_lost_ends_the_sweep_and_keeps_its_results(
    dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait_for_workers(dask)
    monkeypatch.setattr(sweep_module, "_IN_FLIGHT", 3)
    sweep = Sweep(make_cases([QUICK], {}, (), 10), tmp_path / "out.jsonl")
    told = itertools.count()

    def tell() -> None:
        if next(told) == 2:
            dask.scheduler.kill()

    with pytest.raises(HostError, match=f"no dask scheduler answers at {dask.address}"):
        sweep.run(partial(cluster, dask.address), tell)
    errors = [result.error for result in sweep.results]
    assert errors.count("") >= 3
    assert {error for error in errors if error} == {
        "what simulated it is gone: the connection to the scheduler is lost"
    }
    assert len(Sweep(sweep.cases.values(), tmp_path / "out.jsonl").missing) == 20 - errors.count("")


@pytest.mark.parametrize(
    ("address", "error"), [("tcp://127.0.0.1:1", HostError), ("here", UsageError), ("tcp://a/b:1", UsageError)]
)
def test_a_cluster_that_is_not_there_is_one_line(
    address: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "_CONNECT_TIMEOUT_S", 1)
    connection: AbstractContextManager[object] = cluster(address)
    with pytest.raises(error, match=address), connection:
        pass
