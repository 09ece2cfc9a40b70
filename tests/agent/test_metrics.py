"""What Prometheus is told of migrations, checked by promtool and scraped by a real Prometheus."""

import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.test_memory import ENDED, STARTED, complete, facts
from tests.support.agent import free_port
from tests.support.wait import wait_until
from vmferry.agent.live import Live
from vmferry.agent.log import Log, as_text
from vmferry.agent.metrics import Metrics, served
from vmferry.agent.recording import Recording
from vmferry.agent.rules import Vm
from vmferry.control.progress import Progress
from vmferry.errors import HostError

CONTRIB = Path(__file__).parents[2] / "contrib" / "prometheus"
SEEN = Progress.from_qmp(
    {
        "status": "active",
        "total-time": 2500,
        "cpu-throttle-percentage": 40,
        "ram": {"remaining": 1000, "total": 4000, "transferred": 3000, "mbps": 8.0, "dirty-sync-count": 1},
    }
)


def live(name: str = "db", progress: Progress | None = SEEN) -> Live:
    recording = Recording(facts(Vm(name, "u")))
    recording.record(0, STARTED)
    one = Live(recording, Log(as_text))
    if progress:
        one.watch(progress)
    return one


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """All samples by name and the first label's value."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_migration_that_runs_has_gauges_in_base_units_and_none_of_what_nobody_knows() -> None:
    told = samples(Metrics(lambda: [live()]))
    assert told["vmferry_migrations_running", "steer"] == 1
    assert told["libvirt_domain_job_time_elapsed_seconds", "db"] == 2.5
    assert told["libvirt_domain_job_mem_remaining_bytes", "db"] == 1000
    assert told["vmferry_migration_throttle_ratio", "db"] == 0.4
    assert told["vmferry_migration_bandwidth_bytes_per_second", "db"] == 1e6
    assert ("vmferry_migration_dirty_bytes_per_second", "db") not in told
    assert not [name for name, _ in samples(Metrics(lambda: [live(progress=None)])) if name.startswith("libvirt")]


def test_what_has_ended_is_counted_once_and_what_nobody_saw_apart() -> None:
    metrics = Metrics(list)
    done, lost = live().recording, live().recording
    complete(done)
    lost.left("gone")
    metrics.count(done)
    metrics.count(lost)
    text = generate_latest(metrics.registry).decode()
    assert 'vmferry_migrations_total{mode="steer",status="completed"} 1.0' in text
    assert 'vmferry_migrations_total{mode="steer",status="unseen"} 1.0' in text
    total_s = (ENDED.total_time_ns or 0) / 1e9
    assert f'vmferry_migration_total_time_seconds_sum{{mode="steer",status="completed"}} {total_s}' in text
    assert 'vmferry_migration_downtime_seconds_count{mode="steer",status="completed"} 1.0' in text
    assert "unseen" not in re.findall(r"seconds_count{.*", text)


@given(st.lists(st.text(), max_size=4))
def test_no_name_of_a_vm_breaks_the_page(names: list[str]) -> None:
    text = generate_latest(Metrics(lambda: [live(name) for name in names]).registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    found = families["libvirt_domain_job_mem_total_bytes"].samples if names else []
    assert len(found) == len({"".join(c if c.isprintable() else "?" for c in name) for name in names})


def ask(port: int, path: str, **query: str) -> Any:
    url = f"http://127.0.0.1:{port}{path}?{urllib.parse.urlencode(query)}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.load(answer)["data"]


def expressions() -> list[str]:
    dashboard = json.loads((CONTRIB / "vmferry-dashboard.json").read_text())
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(HostError, match=f"cannot serve metrics at {address}: Address already in use"),
            served(Metrics(list), address),
        ):
            pass


@pytest.mark.prometheus
def test_a_real_prometheus_scrapes_it_and_takes_alerts_and_dashboard(tmp_path: Path) -> None:
    metrics = Metrics(lambda: [live('<b>"x"\'')])
    done = live().recording
    complete(done)
    metrics.count(done)
    own, port = free_port(), free_port()
    (tmp_path / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s}}\nrule_files: [{CONTRIB}/vmferry-alerts.yml]\n"
        f"scrape_configs: [{{job_name: vmferry, static_configs: [{{targets: ['127.0.0.1:{own}']}}]}}]\n"
    )
    checked = subprocess.run(
        ["promtool", "check", "config", tmp_path / "prometheus.yml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    linted = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(metrics.registry), capture_output=True, check=False
    )
    assert linted.returncode == 0, linted.stderr
    command = [
        "prometheus",
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address=127.0.0.1:{port}",
    ]

    def value(query: str) -> list[Any]:
        try:
            found: list[Any] = ask(port, "/api/v1/query", query=query)["result"]
        except OSError:
            return []
        return found

    with served(metrics, f"127.0.0.1:{own}"), subprocess.Popen(command, stderr=subprocess.DEVNULL) as prometheus:
        try:
            wait_until(lambda: value("libvirt_domain_job_mem_remaining_bytes"), 60)
            (sample,) = value("libvirt_domain_job_mem_remaining_bytes")
            assert (sample["metric"]["domain"], sample["value"][1]) == ('<b>"x"\'', "1000")
            assert value('vmferry_migrations_total{status="completed"}')
            known = set(ask(port, "/api/v1/label/__name__/values"))
            for expression in expressions():
                ask(port, "/api/v1/query", query=expression)
                names = set(re.findall(r"\b(?:vmferry|libvirt)_\w+", expression))
                assert {name for name in names if "dirty" not in name and "left" not in name} <= known
        finally:
            prometheus.terminate()
