"""`vmferry history`: which migrations it lists, and how."""

import csv
import io
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.test_memory import STARTED, complete, facts, remembering
from vmferry.agent.recording import Foretold
from vmferry.agent.rules import Vm
from vmferry.cli.history import cell
from vmferry.cli.main import vmferry
from vmferry.errors import UsageError

DAY_MS = 86_400_000
NOON_MS = 1_767_268_800_000  # 2026-01-01, 12:00 UTC


@pytest.fixture
def in_utc() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.fixture
def database(in_utc: None, tmp_path: Path) -> str:
    """Three days: one by `planned` with a forecast, one by `original` without, and one whose end nobody saw."""
    url = f"sqlite:///{tmp_path}/agent.db"
    names = ("=cmd|' /C calc'!A0", "db-2", "db-3")
    variants = ("planned", "original", "planned")
    with remembering(url) as memory:
        for number, (name, variant) in enumerate(zip(names, variants, strict=True)):
            whose = facts(Vm(name, f"u{number}"), NOON_MS + number * DAY_MS)
            recording = memory.begin(replace(whose, variant=variant))
            recording.record(1, STARTED)
            if number == 0:
                recording.foretold = Foretold(
                    elapsed_ms=2000, least_left_ms=3000, median_left_ms=4000, most_left_ms=8000
                )
            complete(recording) if number < 2 else recording.left("gone")
    return url


def listed(database: str, *words: str) -> list[dict[str, Any]]:
    ended = CliRunner().invoke(vmferry, ["history", "--database", database, "--json", *words])
    assert ended.exit_code == 0, ended.output
    return [json.loads(line) for line in ended.output.splitlines()]


def shown(database: str, *words: str) -> str:
    ended = CliRunner().invoke(vmferry, ["history", "--database", database, *words], env={"COLUMNS": "80"})
    assert all(len(line) <= 80 for line in ended.output.splitlines())
    return ended.output


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["--policy", "planned"], [2, 0]),
        (["--policy", "orig*"], [1]),
        (["--vm", "db-?"], [2, 1]),
        (["--status", "completed"], [1, 0]),
        (["--status", "unknown"], [2]),
        (["--status", "setup"], []),
        (["--since", "2026-01-02"], [2, 1]),
        (["--until", "2026-01-02"], [0]),
        (["--since", "2026-01-01 12:00", "--until", "2026-01-02T12:00"], [0]),
        (["--since", "2026-01-02", "--policy", "planned", "--vm", "db-*"], [2]),
    ],
)
def test_migrations_are_found_by_name_state_date_and_policy(
    database: str, words: list[str], numbers: list[int]
) -> None:
    assert [row["vm_uuid"] for row in listed(database, *words)] == [f"u{number}" for number in numbers]


def test_no_name_is_a_formula_in_a_spreadsheet(database: str) -> None:
    rows = list(csv.DictReader(io.StringIO(shown_csv(database))))
    assert rows[-1]["vm_name"] == "'=cmd|' /C calc'!A0"
    assert json.loads(rows[-1]["forecast"])["median_left_ms"] == 4000
    assert (rows[-1]["left_ms"], rows[0]["left_ms"]) == ("5000", "")


def shown_csv(database: str) -> str:
    return CliRunner().invoke(vmferry, ["history", "--database", database, "--csv"]).output


@given(st.text(alphabet="=+-@\t\r\n\uff1d\uff0b\uff0d\uff20a1'\" ,;", max_size=5))
def test_whatever_a_text_begins_with_its_cell_is_none(text: str) -> None:
    out = io.StringIO()
    csv.writer(out).writerow([cell(text), cell(-5)])
    read, number = next(csv.reader(io.StringIO(out.getvalue(), newline="")))
    assert not re.match(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]", read)
    assert read.removeprefix("'") == text.removeprefix("'")
    assert number == "-5", "a number is a number"


def test_what_was_foretold_is_shown_beside_what_came_of_it(database: str) -> None:
    text = shown(database, "--forecasts")
    assert re.search(r"2026-01-01 12:00 .* 2 s +4 s +8 s +5 s +\+25%", text.replace(".00", ""))
    assert re.search(r"db-2 +- +- +- +- +-", text)


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--days", "3", "--since", "2026-01-01"], "give one of them"), (["--csv", "--forecasts"], "give one")],
)
def test_ways_that_contradict_are_refused(database: str, words: list[str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        CliRunner().invoke(vmferry, ["history", "--database", database, *words], catch_exceptions=False)


def test_nothing_that_is_remembered_is_said_so(database: str) -> None:
    assert shown(database, "--host", "none") == "no such migration is remembered\n"
