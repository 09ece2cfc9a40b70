"""A migration whose beginning nobody saw: what its throttle took is told as unknown, everywhere, and never as 0."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client import generate_latest
from rich.console import Console

from tests.agent.test_memory import facts, remembering
from tests.simulation.qemu.scenes import scenario
from tests.support.agent_web import client_of, sources_of
from vmferry.agent.live import Live
from vmferry.agent.log import Log, as_text
from vmferry.agent.metrics import Metrics
from vmferry.agent.reins import Reins
from vmferry.agent.rules import Mode, Rule
from vmferry.agent.web.answers import live_migration
from vmferry.cancel import CancelToken
from vmferry.cli.history import command as history
from vmferry.cli.progress import progress_view
from vmferry.cli.report import command as report
from vmferry.control.asking.progress import Progress
from vmferry.control.looking_on import look_on
from vmferry.control.ports import Ports
from vmferry.control.telling.outlook import NOTHING_EXPECTED
from vmferry.report.lines import ProgressLine
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.releases import find_release

LATE_S = 8


@dataclass
class Late:
    """A guest of a modelled QEMU that slows it by itself, looked on 8 s after its migration began."""

    live: Live
    seen: list[str]
    """What was told while it went on: to terminals, to scripts, at the page and to Prometheus."""
    database: str


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Late:
    database = f"sqlite:///{tmp_path_factory.mktemp('late')}/agent.db"
    lab = ModelledLab(scenario().with_settings({"guest.used-memory": "192M"}), find_release("qemu-7.2"), seed=0)
    monitor = lab.connect()
    monitor.execute("migrate-set-capabilities", {"capabilities": [{"capability": "auto-converge", "state": True}]})
    monitor.execute("migrate-set-parameters", {"max-bandwidth": 50 << 20, "downtime-limit": 100})
    monitor.execute("migrate", {"uri": URI})
    lab.clock.sleep_ns(LATE_S * 10**9)
    with remembering(database) as memory:
        live = Live(memory.begin(facts(mode=Mode.WATCH)), Log(as_text), Reins(Rule(mode=Mode.WATCH), ""), "1")
        metrics = Metrics(lambda: [live])

        def watch(progress: Progress) -> None:
            live.watch(progress)
            if progress.running and live.outlook is not NOTHING_EXPECTED:
                seen.append(told(progress, live, metrics))

        seen: list[str] = []
        ports = Ports(monitor, lab.clock, CancelToken(), live.tell, live.warn)
        result = look_on(ports, live.recording, watch)
        live.recording.ended(result, 1_020_000)
        metrics.count(live.recording)
        seen.append(generate_latest(metrics.registry).decode())
    assert result.completed
    assert result.max_throttle_percent
    return Late(live, seen, database)


def told(progress: Progress, live: Live, metrics: Metrics) -> str:
    console = Console(width=80, file=io.StringIO())
    console.print(progress_view(progress, live.outlook))
    line = ProgressLine.of(progress, live.outlook, None)
    assert (line.throttled_ms, live_migration(live).lost_vcpu_s) == (None, None)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue() + generate_latest(metrics.registry).decode()


def test_while_it_goes_on(late: Late) -> None:
    *running, ended = late.seen
    assert running
    assert all("lost unknown" in text for text in running)
    assert not any("work_lost_vcpu_seconds{" in text for text in running)
    assert 'vmferry_migration_total_time_seconds_count{mode="watch",status="completed"} 1.0' in ended
    assert "work_lost_ratio_count{" not in ended


def test_in_the_history_and_its_report(late: Late, tmp_path: Path) -> None:
    database = ["--database", late.database]
    row = json.loads(CliRunner().invoke(history, [*database, "--json"]).stdout)
    assert (row["status"], row["work_lost_percent"], row["work_lost_vcpu_s"]) == ("completed", None, None)
    assert row["total_time_ms"] > LATE_S * 1000, "it is the VM that tells"
    (kept,) = csv.DictReader(io.StringIO(CliRunner().invoke(history, [*database, "--csv"]).stdout))
    assert kept["work_lost_percent"] == ""
    assert CliRunner().invoke(history, database).stdout.split()[-1] == "unknown"
    page = tmp_path / "report.html"
    text = CliRunner().invoke(report, ["--id", "1", *database, "--html", str(page)]).stdout
    text += CliRunner().invoke(report, ["--id", "1", *database]).stdout
    assert "how much of the guest's work was lost is unknown" in " ".join(text.split())
    assert "unknown" in page.read_text()


def test_at_the_page(late: Late, tmp_path: Path) -> None:
    with client_of(sources_of(late.database), tmp_path) as client:
        (row,) = client.get("/api/migrations").json()
    assert row["work_lost_percent"] is None
