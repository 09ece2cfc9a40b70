"""Forecasts on demand, measured at a monitor that is attended to; the whole is in `end_to_end/test_agent_page.py`."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.agent.test_metrics import live
from tests.support.agent_web import client_of, sources_of
from tests.support.fake_qemu import FakeQemu, answer
from tests.support.wait import wait_until
from vmferry.agent.attendants import Attendants, Attended
from vmferry.agent.rules import Mode, Rule, Vm
from vmferry.agent.web.table import Sources

PATH = "/api/vms/db/forecast"


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return sources_of(f"sqlite:///{tmp_path}/agent.db", rules=[Rule(name="left", mode=Mode.IGNORE)])


@pytest.fixture
def attended(sources: Sources) -> Attended:
    return attend(sources, "/db.qmp", Vm("db", "u"))


def attend(sources: Sources, path: str, vm: Vm) -> Attended:
    attendants: Attendants = sources.roster._attendants
    attendants.attended[path] = one = Attended(vm, "running")
    return one


@pytest.fixture
def client(sources: Sources, tmp_path: Path) -> Iterator[httpx.Client]:
    with client_of(sources, tmp_path) as one:
        yield one


def ended(client: httpx.Client) -> dict[str, Any]:
    """How the forecast ended."""
    wait_until(lambda: client.get(PATH).json()["state"] == "failed")
    state: dict[str, Any] = client.get(PATH).json()
    return state


def test_it_is_measured_at_the_monitor_by_who_attends_to_it_one_at_a_time(
    client: httpx.Client, attended: Attended
) -> None:
    assert client.get(PATH).json()["state"] == "none"
    first = client.post(PATH, json={"downtime_limit_ms": 300})
    assert (first.status_code, first.json()["state"]) == (202, "waiting")
    wait_until(lambda: attended.asked)
    again = client.post(PATH, json={})
    assert again.json()["asked_ms"] == first.json()["asked_ms"]
    assert len(attended.asked) == 1
    attended.asked.popleft()(FakeQemu([]))
    assert "somebody else is measuring" in ended(client)["error"]
    second = client.post(PATH, json={})
    assert second.json()["asked_ms"] > first.json()["asked_ms"]
    wait_until(lambda: attended.asked)
    attended.asked.popleft()(FakeQemu([], max_bandwidth=0))
    assert "--bandwidth" in ended(client)["error"]


def test_a_migration_that_begins_comes_first(client: httpx.Client, attended: Attended) -> None:
    qemu = FakeQemu([answer("active", 1)])
    qemu.instead["calc-dirty-rate"] = {}
    client.post(PATH, json={})
    wait_until(lambda: attended.asked)
    measuring = threading.Thread(target=attended.asked.popleft(), args=(qemu,))
    measuring.start()
    qemu.begin()
    assert "a migration" in ended(client)["error"] or "migrating already" in ended(client)["error"]
    measuring.join(30)
    assert not measuring.is_alive()


def test_nothing_is_measured_of_what_is_to_be_ignored_or_migrates(sources: Sources, tmp_path: Path) -> None:
    attend(sources, "/left.qmp", Vm("left", "w"))
    attend(sources, "/db.qmp", Vm("db", "u"))
    migrating = live()
    migrating.recording.facts = replace(migrating.recording.facts, address="unix:/db.qmp")
    sources.followers._live.append(migrating)
    with client_of(sources, tmp_path) as client:
        ignored = client.post("/api/vms/left/forecast", json={})
        assert (ignored.status_code, "says to ignore" in ignored.json()["error"]) == (409, True)
        assert client.post(PATH, json={}).status_code == 409
        (one, left) = client.get("/api/vms").json()["vms"]
        assert (one["live"], one["state"], left["mode"], left["rule"]) == (
            *(migrating.key, "running", "ignore", "rule 1: name 'left'"),
        )


def test_a_vm_is_found_by_its_address_where_several_have_its_name(
    sources: Sources, client: httpx.Client, attended: Attended
) -> None:
    attend(sources, "/other.qmp", Vm("db", "v"))
    several = client.post(PATH, json={})
    assert (several.status_code, "unix:/db.qmp, unix:/other.qmp" in several.json()["error"]) == (404, True)
    assert client.post("/api/vms/unix%3A%2Fother.qmp/forecast", json={}).status_code == 202
    assert client.post("/api/vms/v/forecast", json={}).status_code == 202
    assert client.post("/api/vms/none/forecast", json={}).status_code == 404
    assert client.post(PATH, json={"bandwidth_bytes_per_s": 0}).status_code == 400
