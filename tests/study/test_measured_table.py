"""Tables of measured runs, and the same runs simulated beside them."""

import io
import json
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from tests.support.command_line import run
from vmferry.cli.cells_table import print_cells
from vmferry.errors import UsageError
from vmferry.experiment.scenario import load_scenario, parse_scenario
from vmferry.study.beside import Cell, errors_by_variant, errors_text, seed_table, simulate_beside
from vmferry.study.measured_table import parse_measured, read_measured

MEASURED = Path(__file__).parents[2] / "docs" / "results" / "measured"
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
    return simulate_beside([parse_scenario(SCENARIO.encode(), "small.toml")], parse_measured(table).lines, seeds)


def test_a_table_tells_settings_variant_and_figures_by_their_names() -> None:
    table = parse_measured(TABLE)
    first, second, last = table.lines
    assert table.unused == ("host",)
    assert first.settings == (("load.memory", "8M"),)
    assert (first.outcome.total_time_ms, first.outcome.downtime_ms, first.outcome.completed) == (600, 120, True)
    assert second.outcome.downtime_ms is None
    assert last.variant == "responsive"


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ("", "not a table of measured runs; write a line of column names"),
        ("variant,total_time_ms\n", "not a table of measured runs"),
        ("variant,load.memory\noriginal,8M\n", "no column tells what was measured; there are: total_time_s, "),
        ("total_time_ms\n5\n", "no column 'variant'"),
        ("variant,total_time_ms,total_time_s\noriginal,5,5\n", "two columns tell total_time; leave one of them out"),
        ("variant,total_time_ms\noriginal,5,6\n", "line 2: it has 3 cells where there are 2 columns"),
        ("variant,total_time_ms\n,5\n", "line 2: it does not say the variant"),
        ("variant,total_time_ms\n\noriginal,-5\n", "line 3: "),
        ("variant,total_time_ms\noriginal,soon\n", "line 2: "),
        ("variant,total_time_s\noriginal,inf\n", "line 2: total_time_s is 'inf'; write a number of s"),
        ("variant,total_time_s\noriginal,1e400\n", "line 2: total_time_s is '1e400'; write a number of s"),
        ("variant,total time\noriginal,5\n", "line 2: total time is '5', of no unit; name the column total_time (ms,"),
        ("variant,total time (weeks)\noriginal,5\n", "line 2: total time (weeks) is '5'; write a number of weeks"),
        ("variant,sent (MB),total_time_s\noriginal,a lot,5\n", "line 2: sent (MB) is 'a lot'; write a number of MB"),
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
        ("variant,total_time_ms\nfast,5\n", "line 2 of the measured table: no variant 'fast'; there are: original"),
        ("load.memry,variant,total_time_ms\n8M,original,5\n", "'load.memry' is no key of a scenario"),
        ("load.memory,variant,total_time_ms\n8T,original,5\n", "line 2 of the measured table: "),
        (
            "scenario,variant,total_time_ms\nlarge,original,5\n",
            "line 2 of the measured table: it is of .*large",
        ),
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


SPREADSHEET = """\
Host;Variant;load.memory [MB];link.rate (Mbit/s);parameters.downtime-limit (s);parameters.max-bandwidth (MiB/s);\
Total time (min);downtime-ms;Sent (GB);max throttle (%);dirty sync count;driven;;
"a;b";original;8,5;159;0,3;20;1,5;n/a;0,25;99 %;27,0;qemu-7.2;;
;;;;;;;;;;;;;
"""


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_what_a_spreadsheet_makes_of_a_table_is_read(encoding: str, delimiter: str, tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(SPREADSHEET.replace(";", delimiter).replace("\n", "\r\n").encode(encoding))
    table = read_measured(path)
    (line,) = table.lines
    assert table.unused == ("Host",)
    assert dict(line.settings) == {
        "load.memory": "8.5MB",
        "link.rate": "159Mbit/s",
        "parameters.downtime-limit": "300",
        "parameters.max-bandwidth": str(20 << 20),
    }
    assert (line.number, line.variant, line.driven) == (2, "original", "qemu-7.2")
    figures = line.outcome
    assert (figures.total_time_ms, figures.downtime_ms, figures.sent_bytes) == (90_000, None, 250_000_000)
    assert (figures.max_throttle_percent, figures.dirty_sync_count) == (99, 27)


def test_only_some_variants_of_a_table_are_taken() -> None:
    table = parse_measured("variant,total_time_s\noriginal,1\nxbzrle,2\nresponsive,3\n")
    assert [line.variant for line in table.of(["background-sync+responsive-throttle"])] == ["responsive"]
    assert len(table.of([])) == 3
    with pytest.raises(UsageError, match="no runs of planned; it has runs of: original, xbzrle, responsive"):
        table.of(["planned"])


def test_a_run_of_a_driven_qemu_is_simulated_by_its_model() -> None:
    (cell,) = cells("variant,driven,total_time_s\noriginal,qemu-10,0.9\n", seeds=1)
    assert cell.scenario == "small, qemu-10"
    assert cell.total_time_ratio is not None


def test_of_many_cells_the_furthest_off_are_shown_and_long_names_are_folded() -> None:
    (cell,) = cells(
        "variant,guest.used-memory,parameters.max-bandwidth,load.memory,total_time_s\noriginal,9M,20971520,8M,0.5\n",
        seeds=1,
    )
    others = [msgspec.structs.replace(cell, total_time_ratio=1 + number / 100) for number in range(61)]
    with Console(width=80, file=io.StringIO()) as console, console.capture() as captured:
        print_cells(console, others)
    lines = captured.get().splitlines()
    assert "Shown are the 20 of 61 cells that are the furthest off" in captured.get()
    assert all(len(line) <= 80 and "…" not in line for line in lines)
    with Console(width=80, file=io.StringIO()) as console, console.capture() as captured:
        print_cells(console, cells("variant,parameters.max-bandwidth,total_time_s\noriginal,20971520,0.5\n", seeds=1))
    assert "…" not in captured.get()


def test_errors_are_told_of_each_variant_where_there_are_several() -> None:
    both = cells("variant,total_time_s\noriginal,0.4\nresponsive,0.5\n", seeds=1)
    assert [line.split(": Total")[0] for line in errors_by_variant(both)] == [cell.variant for cell in both]
    assert errors_by_variant(both[:1]) == []


def test_the_patch_series_table_comes_along() -> None:
    assert len(seed_table()) == 27


@pytest.mark.parametrize("path", sorted(MEASURED.glob("*.csv")), ids=lambda path: path.stem)
def test_tables_of_other_peoples_hosts_fit_their_scenarios(path: Path) -> None:
    scenario = load_scenario(path.with_suffix(".toml"))
    lines = read_measured(path).lines
    assert len(lines) >= 12
    for line in lines:
        assert scenario.choosing([line.variant]).with_settings(dict(line.settings)).variants
