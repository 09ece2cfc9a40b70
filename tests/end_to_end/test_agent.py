"""An agent looks after domains of a real libvirt and QEMUs of its own: whoever begins a migration, it converges."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.agent import Agent, agent
from tests.support.libvirt import DOMAIN, Daemon, Domain, migration, slowed
from tests.support.ports import free_port
from tests.support.qemu import stress_command
from tests.support.wait import wait_until
from vmferry.control.asking.progress import ask
from vmferry.control.host.vcpu_threads import vcpu_threads
from vmferry.perf.lab import Lab, VmProcess

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]
needs_libvirt = pytest.mark.libvirt
RESPONSIVE = 'variant = "background-sync+responsive-throttle"'
STEER = f'[[rule]]\nmode = "steer"\n{RESPONSIVE}\n'


@pytest.fixture
def looking_after(tmp_path: Path) -> Iterator[Agent]:
    with agent(tmp_path) as one:
        yield one


def threads_of(domain: Domain) -> list[int]:
    return [thread.id for thread in vcpu_threads(domain.monitor)]


@needs_libvirt
def test_whoever_migrates_a_domain_it_is_steered_by_its_rule_and_remembered(
    source: Daemon, domain: Domain, destination: Daemon, looking_after: Agent
) -> None:
    tags = ["metadata", DOMAIN, "--uri", "urn:vmferry:agent", "--key", "vmferry", "--set", "<agent tags='gold x'/>"]
    source.run(*tags)
    port, page = free_port(), source.directory / "page.sock"
    places = f'libvirt = ["{source.uri}"]\nmetrics = "127.0.0.1:{port}"\npage = "{page}"\n'
    looking_after.write(f'{places}[[rule]]\ntag = "gold"\nmode = "steer"\n{RESPONSIVE}\n')
    looking_after.start()
    looking_after.wait_for("is listened to")
    with migration(source, destination) as virsh:
        looking_after.wait_for(" 0 -> ")
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(page)), base_url="http://agent") as client:
            wait_until(lambda: client.get("/api/live").json()[0]["throttle_percent"])
            (live,) = client.get("/api/live").json()
            assert " 0 -> " in "".join(live["said"])
            (vm,) = client.get("/api/vms").json()["vms"]
            assert (vm["name"], vm["state"], vm["rule"], vm["live"]) == (
                *(DOMAIN, "running", "rule 1: tag 'gold'", live["key"]),
            )
        assert f'job_mem_remaining_bytes{{domain="{DOMAIN}"' in httpx.get(f"http://127.0.0.1:{port}/metrics").text
        _, errors = virsh.communicate(timeout=120)
        assert virsh.returncode == 0, (errors, looking_after.said)
    line = looking_after.wait_for("ended: completed")
    assert (line["vm"], line["level"]) == (DOMAIN, "info")
    destination.domain().check_memory()
    destination.run("destroy", DOMAIN)
    assert looking_after.stop() == 0
    (row,) = looking_after.remembered()
    assert (row.vm_name, row.mode, row.rule, row.status, row.arrival) == (
        *(DOMAIN, "steer", "rule 1: tag 'gold'", "completed", "verified"),
    )
    assert row.max_throttle_percent
    command = [sys.executable, "-m", "vmferry", "report", "--id", str(row.id), "--database", looking_after.database]
    figures = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True).stdout)
    assert figures["total_time_ms"] == row.total_time_ms
    assert any("50 %" in decision["reason"] or decision["throttle_percent"] for decision in figures["decisions"])


@needs_libvirt
def test_libvirtd_dies_and_comes_back_and_the_migration_is_steered_again(
    source: Daemon, domain: Domain, destination: Daemon, looking_after: Agent
) -> None:
    threads = threads_of(domain)
    looking_after.write(f'libvirt = ["{source.uri}"]\n{STEER}')
    looking_after.start()
    looking_after.wait_for("is listened to")
    with migration(source, destination):
        looking_after.wait_for(" 0 -> ")
        assert slowed(threads)
        source.kill()
        wait_until(lambda: not slowed(threads))
        looking_after.wait_for("is gone; it is connected to again")
    source.start()
    looking_after.wait_for("is listened to", 2)
    domain = source.start_domain()
    with migration(source, destination) as virsh:
        looking_after.wait_for(" 0 -> ", 2)
        assert slowed(threads_of(domain))
        assert looking_after.stop() == 0
        assert not slowed(threads_of(domain))
        assert virsh.poll() is None
    assert looking_after.remembered()[0].remark == "the agent ends"


@needs_libvirt
def test_what_libvirt_saves_is_no_migration(source: Daemon, domain: Domain, looking_after: Agent) -> None:
    before = domain.monitor.execute("query-migrate-parameters")
    libvirt = domain.monitor.manager
    assert libvirt
    looking_after.write(f'libvirt = ["{source.uri}"]\n{STEER}')
    looking_after.start()
    looking_after.wait_for("is listened to")
    with subprocess.Popen(source.virsh("save", DOMAIN, f"{source.directory}/saved"), stderr=subprocess.DEVNULL) as save:
        wait_until(lambda: libvirt.job() == "save")
        domain.monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
        wait_until(lambda: (ask(domain.monitor).elapsed_ms or 0) > 2000)
        source.run("domjobabort", DOMAIN)
    assert save.returncode == 1
    assert looking_after.stop() == 0
    assert looking_after.remembered() == []
    # libvirt leaves there what it has set itself.
    domain.monitor.execute("migrate-set-parameters", {"max-bandwidth": before["max-bandwidth"]})


class Pair:
    """Two QEMUs, of which the source has a second monitor in a directory of the agent's."""

    def __init__(self, lab: Lab, directory: Path, name: str = "") -> None:
        load: dict[str, Any] = {"memory_mib": 160, "stress_mib": 96}
        self.uri = f"unix:{lab.directory}/incoming{name}.sock"
        self.socket = directory / f"busy{name}.qmp"
        self.destination = lab.start([*stress_command(**load), "-incoming", self.uri], f"destination{name}")
        own = stress_command(**load, drive_socket=str(self.socket))
        self.source: VmProcess = lab.start([*own, "-name", f"busy{name}"], f"source{name}")
        self.source.wait_for_passes(1)

    def begin(self, mib_per_s: int = 40) -> None:
        self.source.monitor.execute("migrate-set-parameters", {"max-bandwidth": mib_per_s << 20})
        self.source.monitor.execute("migrate", {"uri": self.uri})

    @property
    def slowed(self) -> bool:
        return slowed([self.source.monitor.execute("query-cpus-fast")[0]["thread-id"]])

    @property
    def status(self) -> str:
        return ask(self.source.monitor).status


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as one:
        yield one


def test_killed_it_leaves_nothing_and_a_new_one_takes_the_migration_up_and_remembers_one(
    lab: Lab, looking_after: Agent, tmp_path: Path
) -> None:
    (tmp_path / "qmp").mkdir()
    looking_after.write(f'sockets = ["{tmp_path}/qmp"]\n{STEER}')
    looking_after.start()
    pair = Pair(lab, tmp_path / "qmp")
    looking_after.wait_for("attended to at")
    pair.begin()
    looking_after.wait_for(" 0 -> ")
    assert pair.slowed
    looking_after.kill()
    wait_until(lambda: not pair.slowed)
    assert pair.status == "active"
    looking_after.start()
    looking_after.wait_for(" 0 -> ", 2)
    pair.source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 30})
    looking_after.wait_for("ended: completed")
    pair.destination.check_memory()
    assert looking_after.stop() == 0
    (row,) = looking_after.remembered()
    assert (row.vm_name, row.status, row.rule) == ("busy", "completed", "rule 1: all VMs")
    assert row.max_throttle_percent


def test_rules_are_reloaded_and_faulty_ones_are_not(lab: Lab, looking_after: Agent, tmp_path: Path) -> None:
    (tmp_path / "qmp").mkdir()
    places = f'sockets = ["{tmp_path}/qmp", "{tmp_path}/none"]\n'
    looking_after.write(f"{places}{STEER}")
    looking_after.start()
    looking_after.wait_for("cannot look for monitors")
    looking_after.write(f'{places}[[rule]]\nmode = "ster"\n')
    looking_after.reload()
    assert ":5: Invalid enum value 'ster'" in looking_after.wait_for("the rules of before hold on")["message"]
    looking_after.write(f'{places}[[rule]]\nname = "busy"\nmode = "shadow"\n{RESPONSIVE}\n')
    looking_after.reload()
    looking_after.wait_for("hold from now on")
    pair = Pair(lab, tmp_path / "qmp")
    looking_after.wait_for("attended to at")
    pair.begin()
    settings = [pair.source.monitor.execute(f"query-migrate-{what}") for what in ("parameters", "capabilities")]
    looking_after.wait_for("would do")
    assert not pair.slowed
    pair.source.monitor.execute("migrate_cancel")
    looking_after.wait_for("ended: cancelled")
    after = [pair.source.monitor.execute(f"query-migrate-{what}") for what in ("parameters", "capabilities")]
    assert after == settings
    pair.source.process.send_signal(signal.SIGKILL)
    looking_after.wait_for("no more attended to")
    assert looking_after.stop() == 0
    assert [(row.mode, row.status) for row in looking_after.remembered()] == [("shadow", "cancelled")]


@needs_libvirt
def test_the_example_with_two_hosts_runs() -> None:
    script = Path(__file__).parents[2] / "docs" / "examples" / "two-libvirt-hosts.sh"
    environment = os.environ | {"PYTHON": sys.executable}
    ran = subprocess.run([script], capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "rule 1: name 'busy'" in ran.stdout, "of --check"
    assert re.search(r"busy +running", ran.stdout), "on the destination"
    assert re.search(r"1 +\d{4}-\d\d-\d\d \d\d:\d\d +busy +steer +completed", ran.stdout)
