"""`vmferry forecast` of journals: no VM is needed for that."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from vmferry.cli.forecast_view import activity
from vmferry.cli.main import vmferry
from vmferry.convergence.written import Written
from vmferry.errors import UsageError
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.journal import FileJournal
from vmferry.simulation.run import simulate
from vmferry.study.survey import Survey

BUSY = b"""
name = "recorded"
[guest]
memory = "32M"
vcpus = 2
[[guest.loads]]
pattern = "sweep"
memory = "25M"
write-rate = "250MiB/s"
[link]
rate = "25MiB/s"
"""


@pytest.fixture(scope="module")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("forecast") / "journal"
    with FileJournal(path) as file:
        for entry in simulate(parse_scenario(BUSY, "recorded"), "original").entries:
            file.record(entry.time_ns, entry.event)
    return path


def forecast(*words: str) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(vmferry, ["forecast", *words])


def test_a_journal_is_enough_and_no_line_is_longer_than_80_columns(journal: Path) -> None:
    run = forecast("--journal", str(journal), "--bandwidth", "12MiB/s")
    assert run.exit_code == 0, run.output
    assert "It will converge" in run.output
    assert "Not known: whether the guest still does what it did when the journal was written." in " ".join(
        run.output.split()
    )
    lines = run.output.replace(str(journal), "journal").splitlines()
    assert max(map(len, lines)) <= 80


def test_two_forecasts_agree_to_the_last_figure_and_json_has_all_of_it(journal: Path) -> None:
    first, again = (forecast("--journal", str(journal), "--bandwidth", "12MiB/s", "--json").stdout for _ in range(2))
    assert first == again
    told = json.loads(first)
    assert told["bandwidth_bytes_per_s"] == 12 << 20
    assert [each["chance"] for each in told["strategies"]] == [0, 1, 1, 1, 1]
    assert told["verdict"] == "will"
    assert told["prices"]["throttle_percent"] > 0
    assert told["reason"].endswith(".")


@pytest.mark.parametrize("name", ["picture.svg", "picture.html"])
def test_a_picture_has_the_curve_and_the_strategies(journal: Path, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    forecast("--journal", str(journal), "--picture", str(path))
    picture = path.read_text()
    assert "the link carries" in picture
    assert "planned" in picture
    assert 'class="dot guest"' in picture
    assert picture.startswith("<svg") == name.endswith("svg")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give the VM's monitor, --qmp ADDRESS or --libvirt DOMAIN, or --journal FILE of it"),
        (["--qmp", "unix:/nowhere", "--journal", "x"], "give the VM's monitor"),
        (["--qmp", "unix:/nowhere", "--migration", "1"], "--migration chooses one in a journal"),
        (["--journal", "/nowhere/journal"], "cannot read the journal"),
        (["--qmp", "unix:/nowhere", "--bandwidth", "0B/s"], "--bandwidth is 0"),
        (["--qmp", "unix:/nowhere", "--picture", "x.png"], "no name for a picture"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_give_instead(words: list[str], said: str) -> None:
    run = forecast(*words)
    assert isinstance(run.exception, UsageError)
    assert said in str(run.exception)


@pytest.mark.parametrize(
    ("distinct_bytes", "said"),
    [
        (0, "It is paused, and wrote nothing while it was measured."),
        (4 << 20, "It is paused now; before, it wrote 4 MiB in 1 s."),
    ],
)
def test_of_a_paused_guest_only_what_was_seen_is_said(distinct_bytes: int, said: str) -> None:
    survey = Survey(
        memory_bytes=64 << 20,
        used_bytes=64 << 20,
        vcpu_count=1,
        written=(Written(1_000_000_000, 1.0, distinct_bytes),),
        bandwidth_bytes_per_s=100 << 20,
        downtime_limit_ms=300,
        paused=True,
    )
    assert activity(survey).startswith(said)
