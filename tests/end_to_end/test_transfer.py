"""Stock QEMU moves over several connections, compressed and encrypted, and is left as it was found."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.certificates import HERE, THERE, lab
from tests.support.qemu import stress_command
from tests.support.wait import wait_until
from vmferry.perf.lab import Lab, VmProcess

pytestmark = [pytest.mark.qemu, pytest.mark.kvm]

COMMAND = stress_command(memory_mib=64, stress_mib=16)


@pytest.fixture
def vms() -> Iterator[Lab]:
    with Lab() as vms:
        yield vms


def credentials(host: str, endpoint: str) -> list[str]:
    return ["-object", f"tls-creds-x509,id=tls0,dir={lab() / host},endpoint={endpoint},verify-peer=on"]


def settings(vm: VmProcess) -> list[Any]:
    return [vm.monitor.execute(command) for command in ("query-migrate-capabilities", "query-migrate-parameters")]


def command_to_migrate(vms: Lab, *words: str) -> list[str]:
    """Return what drives the source by its second monitor, while the test keeps the first."""
    command = [sys.executable, "-m", "vmferry", "migrate", "--qmp", f"unix:{vms.directory / 'drive'}", "--json"]
    return [*command, *words, f"unix:{vms.directory / 'in'}"]


def migrate(vms: Lab, *words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command_to_migrate(vms, *words), capture_output=True, text=True, timeout=120)


def start(vms: Lab, name: str, monitor: str, *options: str) -> VmProcess:
    second = ["-qmp", f"unix:{vms.directory / monitor},server=on,wait=off"]
    return vms.start([*COMMAND, *second, *options], name)


ALL_OF_IT = ["--channels", "3", "--compression", "zlib", "--tls-creds", "tls0", "--tls-hostname", THERE]


def start_pair(vms: Lab) -> tuple[VmProcess, VmProcess, list[str]]:
    """Return a busy source, a destination that waits to be told, and what sets both up."""
    destination = start(vms, "destination", "there", "-incoming", "defer", *credentials(THERE, "server"))
    source = start(vms, "source", "drive", *credentials(HERE, "client"))
    source.wait_for_passes(1)
    return source, destination, [*ALL_OF_IT, "--destination-qmp", f"unix:{vms.directory / 'there'}"]


def test_channels_compression_and_credentials_are_set_on_both_sides_and_put_back(vms: Lab) -> None:
    source, destination, words = start_pair(vms)
    before = settings(source), settings(destination)
    driver = migrate(vms, *words, "--max-bandwidth", "400MiB/s")
    assert driver.returncode == 0, driver.stderr
    assert json.loads(driver.stdout)["arrival"] == "verified"
    assert source.monitor.execute("query-migrate")["ram"]["multifd-bytes"] > 0
    assert (settings(source), settings(destination)) == before
    destination.check_memory()


def test_a_driver_that_is_killed_leaves_both_sides_as_they_were_once_the_guest_has_moved(vms: Lab) -> None:
    source, destination, words = start_pair(vms)
    before = settings(source), settings(destination)
    slow = ["--max-bandwidth", "1MiB/s", "--downtime-limit", "1ms", "--variant", "original"]
    with subprocess.Popen(command_to_migrate(vms, *words, *slow), stdout=subprocess.DEVNULL) as driver:
        wait_until(lambda: source.monitor.execute("query-migrate").get("status") == "active")
        driver.kill()
    assert settings(source) != before[0]
    source.monitor.execute("stop")
    source.monitor.execute("migrate-set-parameters", {"max-bandwidth": before[0][1]["max-bandwidth"]})
    wait_until(lambda: source.monitor.execute("query-migrate")["status"] == "completed")
    wait_until(lambda: (settings(source), settings(destination)) == before)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--channels", "2"], "add --destination-qmp"),
        (["--compression", "zlib"], "pages are compressed on channels; add --channels N"),
        (["--channels", "2", "--compression", "lzma"], "not by 'lzma'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_changed(vms: Lab, words: list[str], complaint: str) -> None:
    source = start(vms, "source", "drive")
    before = settings(source)
    driver = migrate(vms, *words)
    assert driver.returncode == 2
    assert complaint in driver.stderr
    assert settings(source) == before
    assert source.monitor.execute("query-status")["running"]


def test_credentials_that_qemu_does_not_have_are_refused_before_anything_is_done(vms: Lab) -> None:
    start(vms, "destination", "there", "-incoming", f"unix:{vms.directory / 'in'}")
    source = start(vms, "source", "drive")
    before = settings(source)
    driver = migrate(vms, "--tls-creds", "nobody", "--tls-hostname", THERE)
    assert driver.returncode == 2
    assert "QEMU has no object 'nobody'; start it with -object tls-creds-x509,id=tls0" in driver.stderr
    assert settings(source) == before
    assert source.monitor.execute("query-status")["running"]
