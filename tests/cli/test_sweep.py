"""`vmferry sweep` as its user sees it."""

import csv
import json
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings

from tests.support.hostile import tampered
from vmferry.cli.sweep import command
from vmferry.errors import UsageError
from vmferry.experiment.scenario import load_scenario, parse_scenario
from vmferry.study.sweep import Sweep, make_cases, run_case

SCENARIO = """
name = "quick"
variants = ["original"]
guest = { memory = "16M", vcpus = 1, loads = [{ pattern = "uniform", memory = "8M", write-rate = "100MiB/s" }] }
link = { rate = "10MiB/s", jitter = 0.2 }
"""


@pytest.fixture
def scenario(tmp_path: Path) -> Path:
    path = tmp_path / "quick.toml"
    path.write_text(SCENARIO)
    return path


def sweep(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_medians_are_shown_for_each_point_of_the_grid(scenario: Path, tmp_path: Path) -> None:
    words = (scenario, "--set", "link.rate=10MiB/s,20MiB/s", "--seeds", 3, "--output", tmp_path / "out.jsonl")
    answer = sweep(*words)
    assert answer.exit_code == 0, answer.output
    assert "6 cases to simulate, 0 are in" in answer.stderr
    lines = answer.stdout.splitlines()
    assert [line.strip() for line in lines if "link.rate" in line] == [
        "quick link.rate=10MiB/s",
        "quick link.rate=20MiB/s",
    ]
    assert [line.split()[:2] for line in lines if line.startswith("original")] == [["original", "3/3"]] * 2
    assert "0 cases to simulate, 6 are in" in sweep(*words).stderr


def test_an_interrupted_sweep_says_how_to_go_on(scenario: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    words = [str(scenario), "--seeds", "3000", "--output", str(output)]
    process = subprocess.Popen(
        [sys.executable, "-m", "vmferry", "sweep", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not output.exists() or output.stat().st_size < 2000:
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "interrupted; the same command goes on" in " ".join(errors.split())
    assert "Traceback" not in errors
    done = len(output.read_text().splitlines())
    assert 0 < done < 3000
    assert len(Sweep(make_cases([load_scenario(scenario)], {}, (), 3000), output).missing) == 3000 - done


RECORD = msgspec.to_builtins(run_case(make_cases([parse_scenario(SCENARIO.encode(), "quick")], {}, (), 1)[0]))


@settings(max_examples=100, deadline=None)
@given(tampered(RECORD))
def test_any_record_is_taken_or_refused(record: dict[str, object]) -> None:
    with tempfile.TemporaryDirectory() as name:
        scenario, output = Path(name, "quick.toml"), Path(name, "out.jsonl")
        scenario.write_text(SCENARIO)
        output.write_text(json.dumps(record) + "\n")
        answer = sweep(scenario, "--output", output, "--jobs", 1)
        assert answer.exit_code == 0 or isinstance(answer.exception, UsageError), answer.exception
        assert all(line.isprintable() for line in answer.stdout.splitlines())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--set", "link.rate"], "KEY=VALUE"),
        (["--set", "link.rate=1", "--set", "link.rate=2"], "each key once"),
        (["--jobs", "1", "--scheduler", "tcp://h:1"], "give one of them"),
        (["--set", "guest.speed=1"], "speed"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(scenario: Path, tmp_path: Path, words: list[str], named: str) -> None:
    text = str(sweep(scenario, "--output", tmp_path / "out.jsonl", *words).exception)
    assert named in text
    assert "\n" not in text


def test_names_are_shown_as_they_are_written_but_for_control_characters(scenario: Path, tmp_path: Path) -> None:
    scenario.write_text(SCENARIO.replace('"quick"', r'"[/bold]\u001b[2J"') + "\nlimits = { max-iterations = 1 }")
    answer = sweep(scenario, "--output", tmp_path / "d[/x].jsonl")
    assert answer.exit_code == 0, answer.output
    assert "d[/x].jsonl already" in "".join(answer.stderr.split("\n"))
    assert "[/bold]?[2J" in answer.stdout
    assert [line.split() for line in answer.stdout.splitlines()][1][5] == "passes"


@pytest.mark.parametrize("value", ["nan", "inf", "1e300", "-1"])
def test_values_that_cannot_be_are_usage_errors(scenario: Path, tmp_path: Path, value: str) -> None:
    error = sweep(scenario, "--output", tmp_path / "o", "--set", f"guest.sync-ns-per-page={value}").exception
    assert isinstance(error, UsageError)
    assert "guest.sync-ns-per-page is" in str(error)


def test_the_figures_of_merit_are_in_every_line(scenario: Path, tmp_path: Path) -> None:
    [line] = sweep(scenario, "--output", tmp_path / "out.jsonl", "--json").stdout.splitlines()
    result = msgspec.json.decode(line)
    assert result["sent_per_memory"] == result["sent_bytes"] / result["memory_bytes"] > 0
    assert result["work_lost_vcpu_s"] > 0 < result["work_lost_percent"]


def test_the_results_are_written_as_a_table_too(scenario: Path, tmp_path: Path) -> None:
    table = tmp_path / "out.csv"
    answer = sweep(scenario, "--seeds", 2, "--output", tmp_path / "out.jsonl", "--csv", table)
    assert answer.exit_code == 0, answer.output
    assert [row["seed"] for row in csv.DictReader(table.read_text().splitlines())] == ["0", "1"]


def test_a_table_that_cannot_be_written_is_told_before_anything_is_simulated(scenario: Path, tmp_path: Path) -> None:
    answer = sweep(scenario, "--output", tmp_path / "out.jsonl", "--csv", tmp_path / "none" / "out.csv")
    assert "there is no directory" in str(answer.exception)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize("name", ["costs.svg", "costs.html"])
def test_what_variants_cost_is_plotted_for_each_point_of_the_grid(scenario: Path, tmp_path: Path, name: str) -> None:
    grid = ("--set", "link.rate=10MiB/s,20MiB/s", "--variant", "original", "--variant", "background-sync")
    answer = sweep(scenario, *grid, "--output", tmp_path / "out.jsonl", "--picture", tmp_path / name)
    assert answer.exit_code == 0, answer.output
    text = (tmp_path / name).read_text()
    for heading in ("quick link.rate=10MiB/s", "quick link.rate=20MiB/s"):
        assert heading in text
    shown = " ".join(re.sub("<[^>]*>", " ", text).split())
    assert shown.count("No other is both faster and gentler") == 2


def test_variants_that_do_not_move_the_guest_are_told_and_not_plotted(scenario: Path, tmp_path: Path) -> None:
    limits = ("--set", "limits.max-time=1ms", "--variant", "original", "--variant", "background-sync")
    sweep(scenario, *limits, "--output", tmp_path / "out.jsonl", "--picture", tmp_path / "costs.svg")
    picture = (tmp_path / "costs.svg").read_text()
    assert "0 of 2 migrations completed" in picture
    assert "<circle" not in picture
    assert "not completed in 1 ms" in picture
