"""Domains of a real libvirt are reached through it: a migration that virsh began is steered, another is ours."""

import json
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.libvirt import DOMAIN, Daemon, Domain, migration, slowed
from tests.support.wait import wait_until
from vmferry.client.monitor import open_monitor
from vmferry.control.host.cgroup import find_hierarchy, group_of
from vmferry.control.host.vcpu_threads import vcpu_threads
from vmferry.errors import CommandError, MonitorError

pytestmark = [pytest.mark.kvm, pytest.mark.qemu, pytest.mark.libvirt]
VARIANT = "background-sync+responsive-throttle"


ATTACH = ("migrate", "--attach", "--variant", VARIANT)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def vmferry(source: Daemon) -> Iterator[Start]:
    """Starts vmferry on the domain; what has not ended by itself is ended with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "vmferry", *words, "--libvirt", DOMAIN, "--connect", source.uri]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        with process:
            process.kill()


def await_throttle(steering: subprocess.Popen[str]) -> None:
    """Return when it has told that it slows the guest."""
    assert steering.stderr
    assert any(" 0 -> " in line for line in steering.stderr)


def complaint(errors: str) -> str:
    """Return the error of a command, which is one line."""
    (line,) = [line for line in errors.splitlines() if line.startswith("vmferry: ")]
    assert errors.endswith(f"{line}\n")
    return line


def test_a_migration_that_virsh_begins_is_awaited_and_steered_to_its_end(
    source: Daemon, domain: Domain, destination: Daemon, vmferry: Start
) -> None:
    watching = vmferry("watch", "--wait")
    steering = vmferry(*ATTACH, "--wait", "--json", "--max-downtime", "1h")
    with migration(source, destination) as virsh:
        out, errors = steering.communicate()
        assert steering.returncode == 0, (out, errors)
        assert virsh.wait() == 0
    result = json.loads(out)
    assert result["status"] == "completed"
    assert result["max_throttle_percent"] > 0
    assert result["throttle_by"] == "cgroup"
    told = re.search(r"Total downtime: +([0-9]+) +ms", destination.run("domjobinfo", DOMAIN, "--completed"))
    assert told
    assert result["downtime_ms"] == int(told[1])
    destination.domain().check_memory()
    assert "Migration completed" in watching.communicate()[0]
    destination.run("destroy", DOMAIN)


@pytest.mark.parametrize("number", [None, signal.SIGTERM])
def test_a_libvirtd_that_stands_still_leaves_no_guest_slowed(
    source: Daemon, domain: Domain, destination: Daemon, vmferry: Start, number: int | None
) -> None:
    threads = [thread.id for thread in vcpu_threads(domain.monitor)]
    with migration(source, destination):
        steering = vmferry(*ATTACH)
        await_throttle(steering)
        assert slowed(threads)
        source.process.send_signal(signal.SIGSTOP)
        try:
            if number:
                steering.send_signal(number)
            _, errors = steering.communicate(timeout=60)
            assert not slowed(threads)
        finally:
            source.process.send_signal(signal.SIGCONT)
        if number:
            assert (steering.returncode, "let go of the migration" in complaint(errors)) == (128 + number, True)
        else:
            assert steering.returncode == 1
            assert "keepalive timeout; nothing slows the guest any more" in complaint(errors)


def test_a_libvirtd_that_dies_is_told_in_one_line(
    source: Daemon, domain: Domain, destination: Daemon, vmferry: Start
) -> None:
    threads = [thread.id for thread in vcpu_threads(domain.monitor)]
    with migration(source, destination) as virsh:
        watching = vmferry("watch", "--wait")
        steering = vmferry(*ATTACH)
        await_throttle(steering)
        assert slowed(threads)
        source.kill()
        for process in (steering, watching):
            _, errors = process.communicate(timeout=60)
            assert process.returncode == 1
            assert "is gone" in complaint(errors)
        assert not slowed(threads)
        virsh.wait()
    source.start()


def test_what_libvirt_saves_is_no_migration(source: Daemon, domain: Domain, vmferry: Start) -> None:
    before = domain.monitor.execute("query-migrate-parameters")
    libvirt = domain.monitor.manager
    assert libvirt
    with subprocess.Popen(source.virsh("save", DOMAIN, f"{source.directory}/saved"), stderr=subprocess.DEVNULL) as save:
        wait_until(lambda: libvirt.job() == "save")
        domain.monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
        for words in (ATTACH, ("watch",)):
            refused = vmferry(*words)
            assert "the manager's job is 'save'" in complaint(refused.communicate()[1])
            assert refused.returncode == 2
        source.run("domjobabort", DOMAIN)
    assert save.returncode == 1
    # libvirt leaves there what it has set itself.
    domain.monitor.execute("migrate-set-parameters", {"max-bandwidth": before["max-bandwidth"]})


def test_after_an_aborted_migration_parameters_are_those_of_before(
    source: Daemon, domain: Domain, destination: Daemon, vmferry: Start
) -> None:
    """libvirt puts its own back; what we found were those of its migration."""
    before = domain.monitor.execute("query-migrate-parameters")
    with migration(source, destination, "--auto-converge", "--auto-converge-initial", "35") as virsh:
        steering = vmferry(*ATTACH, "--wait", "--max-bandwidth", "24MiB/s", "--downtime-limit", "100ms")
        held = {"max-bandwidth": 24 << 20, "cpu-throttle-initial": 1}
        wait_until(lambda: held.items() <= domain.monitor.execute("query-migrate-parameters").items())
        source.run("domjobabort", DOMAIN)
        assert steering.wait() == 1
        virsh.wait()
    assert domain.monitor.execute("query-migrate-parameters") == before


def test_a_migration_of_our_own_leaves_the_domain_as_it_was(source: Daemon, domain: Domain, vmferry: Start) -> None:
    threads = [thread.id for thread in vcpu_threads(domain.monitor)]
    homes = [group_of(thread, find_hierarchy()) for thread in threads]
    before = domain.monitor.execute("query-migrate-parameters")
    with _sink() as uri:
        words = ("migrate", uri, "--json", "--variant", VARIANT, "--max-bandwidth", "48MiB/s")
        steering = vmferry(*words, "--downtime-limit", "100ms")
        out, errors = steering.communicate()
    assert steering.returncode == 0, (out, errors)
    assert json.loads(out)["max_throttle_percent"] > 0
    assert [group_of(thread, find_hierarchy()) for thread in threads] == homes
    assert domain.monitor.execute("query-migrate-parameters") == before
    assert [event.name for event in domain.monitor.take_events()].count("STOP") == 1
    source.run("destroy", DOMAIN)


def test_refusals_and_absences_are_told(source: Daemon, domain: Domain) -> None:
    with pytest.raises(CommandError, match="The command no-such-command has not been found"):
        domain.monitor.execute("no-such-command")
    with pytest.raises(MonitorError, match=r"libvirt at .* cannot give access to domain 'idle'"):
        open_monitor(f"libvirt:{source.uri}#idle")
    with pytest.raises(MonitorError, match="cannot reach libvirt at 'qemu\\+unix:///session\\?socket=/no/where'"):
        open_monitor("libvirt:qemu+unix:///session?socket=/no/where#busy")
    source.run("destroy", DOMAIN)
    with pytest.raises(MonitorError, match=r"the domain at .* was destroyed"):
        domain.monitor.execute("query-status")


@contextmanager
def _sink() -> Iterator[str]:
    """A port that takes a migration in, forgets it, and says at its end that all is well (`MIG_RP_MSG_SHUT`, 0)."""

    def swallow() -> None:
        connection, _ = listener.accept()
        with connection:
            last = b""
            while data := connection.recv(1 << 20):
                last = (last + data)[-1 << 20 :]
                if b'"page_size"' in last and last.endswith(b"}"):  # the description of the VM, which comes last
                    connection.sendall(b"\0\1\0\4\0\0\0\0")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=swallow, daemon=True)
        thread.start()
        yield f"tcp:127.0.0.1:{listener.getsockname()[1]}"
        thread.join()
