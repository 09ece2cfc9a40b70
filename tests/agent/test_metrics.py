"""What Prometheus is told of migrations, checked by promtool and scraped by a real Prometheus."""

import json
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.test_memory import ENDED, STARTED, complete, facts
from tests.support.agent_web import READ_TOKEN, made_up, metrics_at
from tests.support.certificates import lab
from tests.support.ports import free_port
from tests.support.wait import wait_until
from vmferry.agent.failures import Failure
from vmferry.agent.live import Live
from vmferry.agent.metrics import Metrics
from vmferry.agent.rules import Rule, Vm
from vmferry.control.asking.progress import NOTHING_SEEN, Progress
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.errors import HostError
from vmferry.transport.tls_credentials import CA_CERT

CONTRIB = Path(__file__).parents[2] / "contrib" / "prometheus"
SEEN = Progress.from_qmp(
    {
        "status": "active",
        "total-time": 2500,
        "cpu-throttle-percentage": 40,
        "ram": {"remaining": 1000, "total": 4000, "transferred": 3000, "mbps": 8.0, "dirty-sync-count": 1},
    }
)


def live(name: str = "db", progress: Progress = SEEN) -> Live:
    one = made_up(facts(Vm(name, "u")))
    one.recording.record(0, STARTED)
    if progress is not NOTHING_SEEN:
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
    assert not [
        name for name, _ in samples(Metrics(lambda: [live(progress=NOTHING_SEEN)])) if name.startswith("libvirt")
    ]


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


KNOWN = msgspec.structs.replace(STARTED, parameters={"downtime-limit": 300})


def seen(elapsed_ms: int, throttle: int = 0, vcpus: tuple[int, ...] = (), syncs: int = 2) -> Progress:
    ram: dict[str, float] = {
        "remaining": 600 << 20,
        "total": 1000 << 20,
        "dirty-sync-count": syncs,
        "dirty-pages-rate": 50 << 8,
    }
    ram |= {"mbps": 100 * 8 * 1.048576, "transferred": 1 << 20, "page-size": 4096}
    told = {"cpu-throttle-percentage": throttle, "cpu-throttle-vcpus": list(vcpus)}
    return Progress.from_qmp({"status": "active", "total-time": elapsed_ms, "ram": ram, **told})


def watched(*polls: Progress, limits: Limits = NO_LIMITS, name: str = "db") -> Live:
    """A migration of a guest with two vCPUs."""
    one = made_up(facts(Vm(name, "u")), Rule(finish_by=limits.deadline_ns))
    one.recording.record(0, KNOWN)
    for progress in polls:
        one.watch(progress)
    return one


def test_the_time_left_is_told_by_its_quantiles_and_the_deadline_beside_it() -> None:
    one = watched(seen(2000), seen(12_000), limits=Limits(deadline_ns=10 * 10**9))
    told = samples(Metrics(lambda: [one]))
    p10, p50, p90 = (told[f"vmferry_migration_left_p{part}_seconds", "db"] for part in (10, 50, 90))
    assert 0 < p10 < p50 < p90
    assert told["vmferry_migration_deadline_left_seconds", "db"] == -2
    assert (p10, p50, p90) == (one.outlook.soon_s, one.outlook.median_s, one.outlook.most_s)


def test_what_has_no_end_in_sight_has_no_quantiles_and_what_has_no_deadline_none_left() -> None:
    told = samples(Metrics(lambda: [watched(seen(2000, syncs=1))]))
    assert ("vmferry_migration_least_left_seconds", "db") in told
    assert not [name for name, _ in told if "_left_p" in name or "deadline" in name]


def test_the_throttle_of_each_vcpu_and_what_it_has_cost_are_told() -> None:
    one = watched(seen(1000, 80, (80, 0)), seen(3000, 80, (80, 0)))
    text = generate_latest(Metrics(lambda: [one]).registry).decode()
    name = "vmferry_migration_vcpu_throttle_ratio"
    assert f'{name}{{domain="db",uuid="u",vcpu="0"}} 0.8' in text
    assert f'{name}{{domain="db",uuid="u",vcpu="1"}} 0.0' in text
    assert 'vmferry_migration_work_lost_vcpu_seconds{domain="db",uuid="u"} 1.6' in text
    alike = generate_latest(Metrics(lambda: [watched(seen(1000, 30))]).registry).decode()
    assert alike.count(f'{name}{{domain="db"') == 2


def test_what_was_lost_is_not_told_if_the_beginning_was_not_seen() -> None:
    told = samples(Metrics(lambda: [watched(seen(5000, 80), seen(6000, 80))]))
    assert ("vmferry_migration_vcpu_throttle_ratio", "db") in told
    assert ("vmferry_migration_work_lost_vcpu_seconds", "db") not in told


def test_the_end_is_no_forecast_of_itself() -> None:
    assert watched(replace(seen(9000), status="completed")).recording.foretold is None


def test_a_forecast_is_compared_with_what_came_of_it() -> None:
    metrics, one = Metrics(list), watched(seen(2000))
    recording = one.recording
    assert recording.foretold
    recording.foretold = msgspec.structs.replace(recording.foretold, elapsed_ms=2000, median_left_ms=4000)
    complete(recording)  # after 7 s
    metrics.count(recording)
    older = watched().recording
    older.foretold = msgspec.structs.replace(recording.foretold, median_left_ms=None)
    complete(older)
    metrics.count(older)
    text = generate_latest(metrics.registry).decode()
    assert 'vmferry_migration_forecast_error_ratio_sum{came="later",mode="steer"} 0.25' in text
    assert 'vmferry_migration_forecast_error_ratio_count{came="later",mode="steer"} 1.0' in text
    assert 'came="sooner"' not in text


def test_failures_are_counted_by_class_and_what_could_not_be_steered_apart() -> None:
    metrics, lost, done = Metrics(list), watched().recording, watched().recording
    lost.not_steered = True
    lost.left("gone")
    complete(done)
    metrics.count(lost)
    metrics.count(done)
    text = generate_latest(metrics.registry).decode()
    counted = dict(re.findall(r"vmferry_migration_failures_total{(.*)} (.*)", text))
    assert len(counted) == 3 * len(Failure)
    assert [labels for labels, count in counted.items() if count != "0.0"] == ['class="unseen",mode="steer"']
    assert "vmferry_migrations_not_steered_total 1.0" in text


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
            pytest.raises(HostError, match=f"cannot serve anything at {address}: Address already in use"),
            metrics_at(address, Metrics(list)),
        ):
            pass


@pytest.mark.prometheus
def test_alerts_fire_when_they_should() -> None:
    command = ["promtool", "test", "rules", str(CONTRIB / "vmferry-alerts-test.yml")]
    tested = subprocess.run(command, capture_output=True, text=True, check=False)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.prometheus
def test_a_real_prometheus_scrapes_it_and_takes_alerts_and_dashboard(tmp_path: Path) -> None:
    one = watched(seen(1000, 30), seen(3000, 30), limits=Limits(deadline_ns=10**10), name='<b>"x"\'')
    metrics = Metrics(lambda: [one])
    done = watched(seen(2000)).recording
    complete(done)
    metrics.count(done)
    own, port = free_port(), free_port()
    creds = lab() / "127.0.0.1"
    (tmp_path / "token").write_text(READ_TOKEN)
    (tmp_path / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s}}\nrule_files: [{CONTRIB}/vmferry-alerts.yml]\n"
        f"scrape_configs: [{{job_name: vmferry, static_configs: [{{targets: ['127.0.0.1:{own}']}}], scheme: https,"
        f" tls_config: {{ca_file: {creds / CA_CERT}}}, authorization: {{credentials_file: {tmp_path}/token}}}}]\n"
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

    with (
        metrics_at(f"0.0.0.0:{own}", metrics, READ_TOKEN, str(creds)),
        subprocess.Popen(command, stderr=subprocess.DEVNULL) as prometheus,
    ):
        try:
            wait_until(lambda: value("libvirt_domain_job_mem_remaining_bytes"))
            (sample,) = value("libvirt_domain_job_mem_remaining_bytes")
            assert (sample["metric"]["domain"], sample["value"][1]) == ('<b>"x"\'', str(600 << 20))
            assert value('vmferry_migrations_total{status="completed"}')
            known = set(ask(port, "/api/v1/label/__name__/values"))
            for expression in expressions():
                ask(port, "/api/v1/query", query=expression)
                names = set(re.findall(r"\b(?:vmferry|libvirt)_\w+", expression))
                assert names <= known
            alerts = (CONTRIB / "vmferry-alerts.yml").read_text()
            assert set(re.findall(r"\b(?:vmferry|libvirt)_\w+", alerts)) <= known
        finally:
            prometheus.terminate()
