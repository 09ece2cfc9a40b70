"""Domains of a real libvirt are reached through it: a migration that virsh began is steered, another is ours."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.libvirt import DOMAIN, Daemon, Domain, daemon
from tests.support.wait import wait_until
from vmferry.control.cgroup import find_hierarchy, group_of
from vmferry.control.drive import ask
from vmferry.control.monitor import open_monitor
from vmferry.control.vcpu_threads import vcpu_threads
from vmferry.errors import CommandError, MonitorError

pytestmark = [pytest.mark.kvm, pytest.mark.qemu, pytest.mark.libvirt, pytest.mark.xdist_group("kvm-timing")]
VARIANT = "background-sync+responsive-throttle"


@pytest.fixture
def source() -> Iterator[Daemon]:
    with daemon() as running:
        yield running


@pytest.fixture
def domain(source: Daemon) -> Domain:
    return source.start_domain()


def driver(source: Daemon, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "vmferry", "migrate", "--libvirt", DOMAIN, "--connect", source.uri, "--json"]
    return subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_migration_that_virsh_began_is_steered_to_its_end(source: Daemon, domain: Domain) -> None:
    with daemon() as destination:
        migration = ("migrate", "--live", DOMAIN, destination.uri, "tcp:127.0.0.1", "--bandwidth", "48")
        virsh = subprocess.Popen(source.virsh(*migration))
        wait_until(lambda: ask(domain.monitor).status == "active", 60)
        steering = driver(source, "--attach", "--variant", VARIANT)
        out, errors = steering.communicate()
        assert steering.returncode == 0, errors
        result = json.loads(out)
        assert result["status"] == "completed"
        assert result["max_throttle_percent"] > 0
        assert "by cgroup" not in errors
        assert virsh.wait() == 0
        destination.domain().check_memory()


def test_a_migration_of_our_own_leaves_the_domain_as_it_was(source: Daemon, domain: Domain) -> None:
    threads = [thread.id for thread in vcpu_threads(domain.monitor)]
    homes = [group_of(thread, find_hierarchy()) for thread in threads]
    before = domain.monitor.execute("query-migrate-parameters")
    with _sink() as uri:
        steering = driver(source, uri, "--variant", VARIANT, "--max-bandwidth", "48MiB/s", "--downtime-limit", "100ms")
        out, errors = steering.communicate()
    assert steering.returncode == 0, errors
    assert json.loads(out)["max_throttle_percent"] > 0
    assert [group_of(thread, find_hierarchy()) for thread in threads] == homes
    assert domain.monitor.execute("query-migrate-parameters") == before
    assert [event.name for event in domain.monitor.take_events()].count("STOP") == 1


def test_refusals_and_absences_are_told(source: Daemon, domain: Domain) -> None:
    with pytest.raises(CommandError, match="The command no-such-command has not been found"):
        domain.monitor.execute("no-such-command")
    with pytest.raises(MonitorError, match=r"libvirt at .* cannot give access to domain 'idle'"):
        open_monitor(f"libvirt:{source.uri}#idle")
    with pytest.raises(MonitorError, match="cannot reach libvirt at 'qemu\\+unix:///session\\?socket=/no/where'"):
        open_monitor("libvirt:qemu+unix:///session?socket=/no/where#busy")
    subprocess.run(source.virsh("destroy", DOMAIN), check=True, stdout=subprocess.DEVNULL)
    with pytest.raises(MonitorError, match=r"the domain at .* was destroyed"):
        domain.monitor.execute("query-status")


@contextmanager
def _sink() -> Iterator[str]:
    """A port that takes a migration in and forgets it."""

    def swallow() -> None:
        connection, _ = listener.accept()
        with connection:
            while connection.recv(1 << 20):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=swallow)
        thread.start()
        yield f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        thread.join()
