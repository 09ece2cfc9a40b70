"""Reports of what an agent remembers: of one migration, and of many."""

import html
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.agent.test_memory import STARTED, complete, facts, remembering
from vmferry.agent.rules import Vm
from vmferry.cli.history import command as history
from vmferry.cli.report import command as report
from vmferry.migration.events import Ordered

HOSTILE = "<img src=x onerror=document.title='broken'>"


@pytest.fixture
def database(tmp_path: Path) -> str:
    """Return the URL of one that holds three migrations, of which the last has no journal."""
    url = f"sqlite:///{tmp_path}/agent.db"
    with remembering(url) as memory:
        for name in ("db-1", "db-1", HOSTILE):
            recording = memory.begin(facts(Vm(name, name)))
            if name == "db-1":
                recording.record(1, STARTED)
                recording.record(1, Ordered(vm_name=name, deadline_ns=10 * 10**9))
                complete(recording)
            else:
                recording.left("it was gone")
    return url


def text_of(page: Path) -> str:
    return " ".join(html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", " ", page.read_text(), flags=re.DOTALL)).split())


def test_migrations_of_one_vm_are_told_together(database: str) -> None:
    told = CliRunner().invoke(report, ["--id", "1", "--id", "2", "--database", database])
    assert told.exit_code == 0, told.output
    assert " ".join(told.stdout.split()).startswith(
        "All 2 migrations completed, in the median in 7 s (7 s to 7 s) with 20 ms of downtime"
    )
    assert "the operator's limits: finish by 10s" in told.stdout
    rows = CliRunner().invoke(report, ["--id", "1", "--id", "2", "--database", database, "--json"]).stdout.splitlines()
    assert [json.loads(row)["name"] for row in rows] == ["migration 1", "migration 2"]


def test_the_history_is_a_page_with_the_answer_on_top(database: str, tmp_path: Path) -> None:
    path = tmp_path / "history.html"
    answer = CliRunner().invoke(history, ["--database", database, "--html", str(path)])
    assert answer.exit_code == 0, answer.output
    text = text_of(path)
    assert "2 of 3 migrations completed" in text
    assert re.search(r"db-1: unnamed variant 2 of 2 7 s \(7 s to 7 s\)", text)
    assert HOSTILE in text
    assert "<img" not in path.read_text()
