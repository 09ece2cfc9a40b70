"""`vmferry simulate` on the command line."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from tests.support.command_line import run
from vmferry.cli import simulate as simulate_module
from vmferry.cli.simulate import command
from vmferry.convergence.variants import ALL_VARIANTS, VARIANTS
from vmferry.errors import UsageError
from vmferry.experiment.scenario import load_scenario
from vmferry.migration.journal import read_journal
from vmferry.migration.outcome import Outcome
from vmferry.study.beside import Cell

SCENARIO = """
name = "small"
seeds = 2
guest = { memory = "64M", vcpus = 1, loads = [{ pattern = "uniform", memory = "10M", write-rate = "50MiB/s" }] }
link = { rate = "20MiB/s" }
"""


def test_results_as_json_and_as_a_table(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    lines = run("simulate", str(path), "--json", "--variant", "original").stdout.splitlines()
    assert [json.loads(line)["seed"] for line in lines] == [0, 1]
    assert all(json.loads(line)["status"] == "completed" for line in lines)
    table = run("simulate", str(path), "--seeds", "1").stdout
    assert table.count("background-sync") == 2
    assert "periodic-sync" in table


def test_a_journal_of_one_run(tmp_path: Path) -> None:
    path, journal = tmp_path / "small.toml", tmp_path / "journal"
    path.write_text(SCENARIO)
    answer = run("simulate", str(path), "--journal", str(journal))
    assert answer.returncode == 2
    assert "--journal records one run, but there are 8" in answer.stderr
    answer = run("simulate", str(path), "--variant", "original", "--seeds", "1", "--journal", str(journal))
    assert answer.returncode == 0
    assert next(read_journal(journal)).time_ns == 0


def test_what_cannot_be_is_one_line(tmp_path: Path) -> None:
    for words, complaint in (
        ([], "give either scenario files or --seed-table"),
        (["/nowhere.toml"], "cannot read the scenario /nowhere.toml: No such file or directory"),
    ):
        answer = run("simulate", *words)
        assert answer.returncode == 2
        assert answer.stderr == f"vmferry: {complaint}\n"


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_names_are_shown_as_they_are_written_but_for_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(SCENARIO.replace('"small"', r'"[red]a[/] [/bold]\u001b\nb"'))
    answer = simulate(path, "--seeds", 1)
    assert answer.exit_code == 0, answer.output
    assert "[red]a[/] [/bold]??b" in answer.stdout


def test_why_a_run_failed_is_told_below_the_table(tmp_path: Path) -> None:
    path = tmp_path / "lost.toml"
    path.write_text(SCENARIO.replace('rate = "20MiB/s"', 'rate = "20MiB/s", lost-at = "1s"'))
    lines = simulate(path, "--seeds", 1, "--variant", "original").stdout.splitlines()
    assert lines[-1] == "! small original seed 0: the connection is lost"


def test_the_figures_of_merit_are_in_every_line(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    result = json.loads(simulate(path, "--seeds", 1, "--variant", "original", "--json").stdout)
    assert result["sent_per_memory"] == result["sent_bytes"] / result["memory_bytes"] > 0
    assert result["work_lost_vcpu_s"] > 0 < result["work_lost_percent"]


def test_options_that_would_be_ignored_are_refused(tmp_path: Path) -> None:
    for words in (["--driven", "qemu-10"], ["--journal", tmp_path / "journal"]):
        for table in (["--seed-table"], ["seed-0150", "--measured", tmp_path / "table.csv"]):
            assert "simulate what is in the table; leave out" in str(simulate(*table, *words).exception)


def test_a_journal_that_cannot_be_is_refused_before_anything_is_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate_module, "simulate", None)
    path = tmp_path / "small.toml"
    path.write_text(SCENARIO)
    for journal, complaint in (
        ("/nowhere/journal", "there is no directory '/nowhere'"),
        ("/dev/null", "not a regular file"),
        (tmp_path / "journal", "--journal records one run, but there are 8"),
    ):
        error = simulate(path, "--journal", journal).exception
        assert isinstance(error, UsageError)
        assert complaint in str(error)
    assert [entry.name for entry in tmp_path.iterdir()] == ["small.toml"]


def test_the_seed_table_has_the_figures_of_merit_and_fits_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = Outcome(
        status="completed", total_time_ms=400_000, downtime_ms=600, dirty_sync_count=25, max_throttle_percent=99
    )
    simulated = msgspec.structs.replace(measured, sent_per_memory=0.59, work_lost_percent=41.4)
    cells = [
        Cell.of(
            scenario=load_scenario("seed-3000"),
            settings={},
            variant=variant,
            measured=[measured],
            simulated=[simulated],
        )
        for variant in VARIANTS
    ]
    monkeypatch.setattr(simulate_module, "simulate_beside", lambda scenarios, runs, seeds, tell: cells)
    lines = simulate("--seed-table").stdout.splitlines()
    assert lines[1].split()[-1] == "lost"
    assert lines[3].split()[-1] == "41"
    assert not any("…" in line for line in lines)
    cell = json.loads(simulate("--seed-table", "--json").stdout.splitlines()[0])
    told = cell["simulated"][0]
    assert (told["sent_per_memory"], told["work_lost_percent"]) == (0.59, 41.4)
    assert cell["measured"][0]["sent_per_memory"] is None


def test_a_policy_joins_the_demo() -> None:
    answer = run("demo", "--simulated", "--policy", "proxmox", "--json")
    variants = [json.loads(line)["variant"] for line in answer.stdout.splitlines()]
    assert len(variants) == 4
    assert variants[-1].startswith("proxmox")


def test_without_auto_converge_nothing_slows_the_guest() -> None:
    answer = simulate("seed-0150", "--variant", "no-auto-converge", "--seeds", 1, "--json")
    result = json.loads(answer.stdout)
    assert (result["variant"], result["work_lost_percent"]) == ("no-auto-converge", 0)


def test_the_demo_can_be_simulated_where_there_is_no_kvm() -> None:
    answer = run("demo", "--simulated")
    assert answer.returncode == 0
    assert "Simulated, not a live migration" in answer.stdout
    assert "scaled 1:10" in answer.stdout
    lines = run("demo", "--simulated", "--json").stdout.splitlines()
    times = [json.loads(line)["total_time_ms"] for line in lines]
    assert times == sorted(times, reverse=True)
    assert times[2] <= 0.75 * times[0]


def test_a_picture_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    scenario = tmp_path / "small.toml"
    scenario.write_text(SCENARIO)
    for name, end in (("small.svg", "</svg>"), ("small.html", "</html>")):
        answer = run("simulate", str(scenario), "--seeds", "1", "--picture", str(tmp_path / name))
        assert answer.returncode == 0
        assert (tmp_path / name).read_text().rstrip().endswith(end)
    (tmp_path / "directory.svg").mkdir()
    answer = run("simulate", str(scenario), "--seeds", "1", "--picture", str(tmp_path / "directory.svg"))
    assert answer.returncode == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["directory.svg", "small.html", "small.svg", "small.toml"]


def test_a_picture_that_cannot_be_is_refused_before_anything_is_simulated() -> None:
    for words, complaint in (
        (["--picture", "a.png", "x"], "'a.png' is no name for a picture: write one that ends in .svg or .html"),
        (["--picture", "/nowhere/a.svg", "x"], "cannot write '/nowhere/a.svg': there is no directory '/nowhere'"),
        (["--picture", "a.svg", "x", "y"], "--picture shows the runs of one scenario; give one scenario file"),
        (["--picture", "a.svg", "--seed-table"], "--picture shows the runs of one scenario; give one scenario file"),
    ):
        answer = run("simulate", *words)
        assert answer.returncode == 2
        assert answer.stderr == f"vmferry: {complaint}\n"


def test_all_variants_are_in_one_table_and_one_picture(tmp_path: Path) -> None:
    path, picture, page = tmp_path / "small.toml", tmp_path / "all.svg", tmp_path / "all.html"
    path.write_text(SCENARIO + '\n[[variant]]\nname = "mine"\npolicy = "planned"\nsettings = { pace = "gentle" }\n')
    answer = simulate(path, "--seeds", 1, "--variant", "all", "--picture", picture)
    assert answer.exit_code == 0, answer.output
    lines = answer.stdout.splitlines()
    names = [line.split()[0] for line in lines[2:] if line]
    assert names[: len(ALL_VARIANTS) + 1] == [*ALL_VARIANTS, "mine"]
    assert any(line.endswith("*") for line in lines)
    assert all(len(line) <= 80 for line in lines)
    svg = picture.read_text()
    assert "Work the guest missed, vCPU seconds" in svg
    assert len(ALL_VARIANTS) - 3 <= svg.count("<circle") <= len(ALL_VARIANTS) + 1
    simulate(path, "--seeds", 1, "--variant", "all", "--picture", page)
    assert "<h3>Time against the guest's work</h3>" in page.read_text()
    simulate(path, "--seeds", 1, "--picture", page)
    assert page.read_text().count('<svg class="plot"') > 4
