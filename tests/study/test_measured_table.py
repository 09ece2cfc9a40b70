"""Tables of measured runs, and the same runs simulated beside them."""

import json
from pathlib import Path

import pytest

from tests.support.command_line import run
from vmferry.errors import UsageError
from vmferry.experiment.scenario import parse_scenario
from vmferry.study.beside import Cell, errors_text, seed_table, simulate_beside
from vmferry.study.measured_table import parse_measured, read_measured

SCENARIO = """
name = "small"
guest = { memory = "64M", vcpus = 1, loads = [{ pattern = "uniform", memory = "10M", write-rate = "5MiB/s" }] }
link = { rate = "20MiB/s" }
"""
TABLE = """\
# who measured it, and where
load.memory, variant, total_time_s, downtime_ms, host

8M, original, 0.6, 120, a
8M, original, 0.5, , b
20M, responsive, 1.5, 90, a
"""


def cells(table: str, seeds: int = 2) -> list[Cell]:
    return simulate_beside([parse_scenario(SCENARIO.encode(), "small.toml")], parse_measured(table), seeds)


def test_a_table_tells_settings_variant_and_figures_by_their_names() -> None:
    first, second, last = parse_measured(TABLE.replace(", host", "").replace(", a", "").replace(", b", ""))
    assert first.settings == (("load.memory", "8M"),)
    assert (first.outcome.total_time_ms, first.outcome.downtime_ms, first.outcome.completed) == (600, 120, True)
    assert second.outcome.downtime_ms is None
    assert last.variant == "responsive"


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("", "not a table of measured runs; write a line of column names"),
        ("variant,total_time_ms\n", "not a table of measured runs"),
        (TABLE, "no column 'host' is known; there are: scenario, variant"),
        ("total_time_ms\n5\n", "no column 'variant'"),
        ("variant,total_time_ms,total_time_s\noriginal,5,5\n", "two columns tell total_time_ms"),
        ("variant,total_time_ms\noriginal,5,6\n", "line 2: it has 3 cells where there are 2 columns"),
        ("variant,total_time_ms\n,5\n", "line 2: it does not say the variant"),
        ("variant,total_time_ms\n\noriginal,-5\n", "line 3: "),
        ("variant,total_time_ms\noriginal,soon\n", "line 2: "),
        ("variant,total_time_s\noriginal,nan\n", "line 2: total_time_s is 'nan'; write a number of seconds"),
        ("variant,total_time_s\noriginal,1e400\n", "line 2: total_time_s is '1e400'; write a number of seconds"),
        ("variant,total_time_s\noriginal,-1\n", "line 2: "),
    ],
)
def test_what_is_no_table_is_named_with_its_line(table: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.csv"
    path.write_text(table)
    with pytest.raises(UsageError) as told:
        read_measured(path)
    assert str(told.value).startswith(f"{path}: {complaint}")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("variant,total_time_ms\nfast,5\n", "the measured table: no variant 'fast'; there are: original"),
        ("load.memry,variant,total_time_ms\n8M,original,5\n", "'load.memry' is no key of a scenario"),
        ("load.memory,variant,total_time_ms\n8T,original,5\n", "the measured table: "),
        ("scenario,variant,total_time_ms\nlarge,original,5\n", "the table has runs of the scenario 'large'; given are"),
    ],
)
def test_runs_of_what_cannot_be_simulated_are_refused(table: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        cells(table)


def test_cells_tell_how_far_simulated_medians_are_from_measured_ones() -> None:
    first, second = cells(
        "load.memory,variant,total_time_s\n8M,original,0.4\n8M,original,9\n20M,responsive,0.1\n20M,responsive,0.2\n"
    )
    assert [len(first.measured), len(first.simulated), first.variant, second.variant] == [
        2, 2, "original", "background-sync+responsive-throttle",
    ]  # fmt: skip
    assert first.settings == {"load.memory": "8M"}
    assert first.total_time_ratio is not None
    assert first.total_time_ratio < 1
    assert first.within_measured
    assert second.total_time_ratio is not None
    assert second.total_time_ratio > 1
    assert second.within_measured is False
    assert "in 1 of 2 cells within what was measured" in errors_text([first, second])


def test_what_did_not_complete_is_not_compared() -> None:
    (cell,) = cells("variant,status,total_time_s\noriginal,cancelled,1200\n", seeds=1)
    assert cell.total_time_ratio is cell.within_measured is None
    assert errors_text([cell]) == ""


def test_measured_runs_stand_beside_simulated_ones_on_the_command_line(tmp_path: Path) -> None:
    scenario, table = tmp_path / "small.toml", tmp_path / "table.csv"
    scenario.write_text(SCENARIO)
    table.write_text("variant,status,total_time_s\noriginal,completed,0.5\nresponsive,failed,\n")
    answer = run("simulate", str(scenario), "--measured", str(table))
    assert answer.returncode == 0
    lines = answer.stdout.splitlines()
    assert all(len(line) <= 80 for line in lines if not line.startswith("!"))
    assert any(line.startswith("original") and "0.5|" in line for line in lines)
    assert "small background-sync+responsive-throttle: 1 of 1 measured runs did not complete" in answer.stdout
    assert lines[-1].startswith("Total time: ")
    told = [
        json.loads(line)
        for line in run("simulate", str(scenario), "--measured", str(table), "--json").stdout.splitlines()
    ]
    assert told[1]["total_time_ratio"] is None
    assert told[0]["measured"][0]["total_time_ms"] == 500


def test_the_patch_series_table_comes_along() -> None:
    assert len(seed_table()) == 27
