"""VMs that migrate with TLS, in processes of their own."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.certificates import HERE, THERE, lab
from tests.support.wait import wait_until
from vmferry.errors import HostError
from vmferry.perf.lab import MONITOR_SOCKET, VM_COMMAND, Lab, VmProcess

pytestmark = pytest.mark.kvm

VM = [*VM_COMMAND, "--memory", "64M"]


@pytest.fixture
def vms() -> Iterator[Lab]:
    with Lab() as vms:
        yield vms


def start_destination(vms: Lab, *options: str, at: str = "127.0.0.1") -> tuple[VmProcess, str]:
    destination = vms.start([*VM, "--incoming", f"tcp:{at}:0", *options], "destination")
    [address] = destination.monitor.execute("query-migrate")["socket-address"]
    return destination, f"tcp:127.0.0.1:{address['port']}"


def migrate(vms: Lab, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "vmferry", "migrate", "--qmp", f"unix:{vms.directory / 'source.qmp'}", *words]
    return subprocess.run(command, cwd=lab(), capture_output=True, text=True, timeout=60)


def test_a_busy_guest_moves_with_tls_and_nobody_comes_without(vms: Lab) -> None:
    options = ["--require-tls", "--tls-creds", str(lab() / THERE), "--tls-authz", HERE]
    destination, uri = start_destination(vms, *options, at="0.0.0.0")
    source = vms.start([*VM, "--append", "ramsize=16"], "source")
    source.wait_for_passes(1)
    plain = migrate(vms, uri)
    assert plain.returncode == 1
    assert "without TLS nobody is received here (tls-creds)" in plain.stderr
    assert source.monitor.execute("query-status")["running"]
    wait_until(lambda: "turned a connection away" in destination.errors())
    secured = migrate(vms, "--tls-creds", HERE, "--tls-hostname", THERE, uri)
    assert secured.returncode == 0, secured.stderr
    destination.check_memory()
    wait_until(lambda: "with TLS" in destination.errors())
    assert "in clear" not in destination.errors()


def test_every_channel_of_a_migration_speaks_tls(vms: Lab) -> None:
    destination, uri = start_destination(vms, "--tls-creds", str(lab() / THERE))
    source = vms.start([*VM, "--append", "ramsize=16"], "source")
    source.wait_for_passes(1)
    secured = migrate(vms, "--tls-creds", HERE, "--tls-hostname", THERE, "--channels", "3", uri)
    assert secured.returncode == 0, secured.stderr
    assert source.monitor.execute("query-migrate")["ram"]["multifd-bytes"] > 0
    assert source.monitor.execute("query-migrate-parameters")["multifd-channels"] == 2, "as it was before"
    destination.check_memory()


def test_a_destination_that_others_reach_says_what_that_means_without_tls(vms: Lab) -> None:
    destination, _ = start_destination(vms, at="0.0.0.0")
    wait_until(lambda: "open to other hosts without TLS: whoever reaches it can send a guest" in destination.errors())


def test_a_vm_that_requires_tls_refuses_to_migrate_without(vms: Lab) -> None:
    with pytest.raises(HostError, match="this VM migrates with TLS only"):
        start_destination(vms, "--require-tls")
    vms.start([*VM, "--require-tls", "--append", "ramsize=16"], "source")
    refused = migrate(vms, "tcp:127.0.0.1:1")
    assert refused.returncode == 1
    assert "this VM migrates with TLS only (--require-tls); set tls-creds" in refused.stderr


def test_a_monitor_that_others_reach_says_so_or_speaks_tls(vms: Lab) -> None:
    vm = vms.start([*VM, "--qmp", "tcp:0.0.0.0:0", "--append", "ramsize=16"], "open")
    wait_until(lambda: "open to other hosts without TLS: whoever reaches it controls the VM" in vm.errors())
    with pytest.raises(HostError, match=r"--require-tls wants tcp:0.0.0.0:.*,tls-creds=DIRECTORY"):
        vms.start([*VM, "--require-tls", "--qmp", "tcp:0.0.0.0:0", "--append", "ramsize=16"], "refused")
    options = ["--require-tls", "--qmp", f"tcp:127.0.0.1:0,tls-creds={lab() / THERE}"]
    secured = vms.start([*VM, *options, "--append", "ramsize=16"], "secured")
    wait_until(lambda: "serves QMP at tcp:" in secured.errors())
    [address] = re.findall(r"serves QMP at (tcp:\S+)", secured.errors())
    command = [sys.executable, "-m", "vmferry", "monitor", f"{address},tls-creds={HERE},tls-hostname={THERE}"]
    said = subprocess.run([*command, "info status"], cwd=lab(), capture_output=True, text=True, timeout=60)
    assert (said.returncode, said.stdout) == (0, "VM status: running\n"), said.stderr


def test_credentials_that_will_not_do_are_told_when_a_vm_starts(vms: Lab) -> None:
    with pytest.raises(HostError, match=r"cannot read the TLS credentials .*No such file") as caught:
        start_destination(vms, "--tls-creds", str(vms.directory))
    assert "Traceback" not in str(caught.value)


def test_a_vm_told_in_qemus_words_moves_with_tls(vms: Lab) -> None:
    qemu = [sys.executable, "-m", "vmferry", "qemu", "-m", "64", "-qmp", f"unix:{MONITOR_SOCKET},server=on,wait=off"]
    theirs = ["-incoming", "tcp:127.0.0.1:0", "-tls-creds", str(lab() / THERE), "-tls-authz", HERE]
    destination = vms.start([*qemu, *theirs], "destination")
    ours = ["-append", "ramsize=16", "-tls-creds", str(lab() / HERE), "-tls-hostname", THERE]
    source = vms.start([*qemu, *ours], "source")
    source.wait_for_passes(1)
    [address] = destination.monitor.execute("query-migrate")["socket-address"]
    moved = migrate(vms, f"tcp:127.0.0.1:{address['port']}")
    assert moved.returncode == 0, moved.stderr
    destination.check_memory()
    wait_until(lambda: "with TLS" in destination.errors())


def test_a_vm_told_in_qemus_words_is_told_what_its_credentials_lack(vms: Lab) -> None:
    qemu = [sys.executable, "-m", "vmferry", "qemu", "-m", "64", "-qmp", f"unix:{MONITOR_SOCKET},server=on,wait=off"]
    with pytest.raises(HostError, match=r"tls-authz is set and tls-creds is not"):
        vms.start([*qemu, "-incoming", "tcp:127.0.0.1:0", "-tls-authz", HERE], "destination")
