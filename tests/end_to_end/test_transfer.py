"""Stock QEMU moves over several connections, compressed and encrypted, and is left as it was found."""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.certificates import HERE, THERE, lab
from tests.support.qemu import stress_command
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


def migrate(vms: Lab, *words: str) -> "subprocess.CompletedProcess[str]":
    """Drive the source by its second monitor, while the test keeps the first."""
    command = [sys.executable, "-m", "vmferry", "migrate", "--qmp", f"unix:{vms.directory / 'drive'}", "--json"]
    return subprocess.run(
        [*command, *words, f"unix:{vms.directory / 'in'}"], capture_output=True, text=True, timeout=120
    )


def start(vms: Lab, name: str, monitor: str, *options: str) -> VmProcess:
    second = ["-qmp", f"unix:{vms.directory / monitor},server=on,wait=off"]
    return vms.start([*COMMAND, *second, *options], name)


def test_channels_compression_and_credentials_are_set_on_both_sides_and_put_back(vms: Lab) -> None:
    destination = start(vms, "destination", "there", "-incoming", "defer", *credentials(THERE, "server"))
    source = start(vms, "source", "drive", *credentials(HERE, "client"))
    source.wait_for_passes(1)
    before = settings(source), settings(destination)
    words = ["--channels", "3", "--compression", "zlib", "--tls-creds", "tls0", "--tls-hostname", THERE]
    driver = migrate(vms, *words, "--destination-qmp", f"unix:{vms.directory / 'there'}", "--max-bandwidth", "400MiB/s")
    assert driver.returncode == 0, driver.stderr
    assert json.loads(driver.stdout)["arrival"] == "verified"
    assert source.monitor.execute("query-migrate")["ram"]["multifd-bytes"] > 0
    assert (settings(source), settings(destination)) == before
    destination.check_memory()


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


def test_credentials_that_qemu_does_not_have_are_told_in_its_words(vms: Lab) -> None:
    start(vms, "destination", "there", "-incoming", f"unix:{vms.directory / 'in'}")
    source = start(vms, "source", "drive")
    before = settings(source)
    driver = migrate(vms, "--tls-creds", "nobody", "--tls-hostname", THERE)
    assert driver.returncode == 1
    assert "No TLS credentials with id 'nobody'" in json.loads(driver.stdout)["error"]
    assert settings(source) == before
    assert source.monitor.execute("query-status")["running"]
