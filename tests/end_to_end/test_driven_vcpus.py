"""Stock QEMU, driven from outside: the vCPU that writes is slowed, the one that reads is not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.qemu import stress_command
from vmferry.migration.events import Decided
from vmferry.migration.journal import read_migration
from vmferry.migration.outcome import Outcome
from vmferry.perf.lab import Lab

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]


def test_a_reader_beside_a_writer_is_slowed_no_longer_than_the_experiment_takes(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with Lab() as lab:
        uri = f"unix:{lab.directory / 'incoming.sock'}"
        command = stress_command(memory_mib=192, vcpu_count=2, drive_socket=str(lab.directory / "drive.qmp"))
        place = command.index("-append") + 1
        command[place] = "cpus=2 vcpus=0 ramsize=32 pattern=read vcpus=1 ramsize=96"
        source = lab.start(command, "source")
        destination = lab.start([*command[:-2], "-incoming", uri], "destination")
        source.wait_for_passes(2)
        options = [
            "--variant",
            "responsive",
            "--downtime-limit",
            "100ms",
            "--max-bandwidth",
            "64MiB/s",
            "--interval",
            "1s",
        ]
        words = ["--cpu-throttle-writers", "--journal", str(journal), "--json"]
        monitor = f"unix:{lab.directory / 'drive.qmp'}"
        done = subprocess.run(
            [sys.executable, "-m", "vmferry", "migrate", uri, "--qmp", monitor, *options, *words],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["status"] == "completed"
        destination.check_memory()
    entries = read_migration(journal).entries
    throttles = [entry.event.vcpu_throttle_percents for entry in entries if isinstance(entry.event, Decided)]
    assert [0, 99] in throttles or any(each and each[0] == 0 < each[1] for each in throttles)
    lost_s = Outcome.of(entries).vcpu_work_lost_s
    assert lost_s
    assert lost_s[0] < lost_s[1]
