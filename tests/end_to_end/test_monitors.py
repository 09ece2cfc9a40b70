"""Real QEMUs keep what the contract of monitors promises, as modelled ones do (tests/simulation/qemu/)."""

import os
import shutil
import time
from collections.abc import Iterator

import pytest
from bench.peers import Load, Peer

from vmferry.client.monitor import Monitor
from vmferry.perf.lab import Lab
from vmferry.testing.monitor import MonitorContract

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]
BINARIES = {"installed": "qemu-system-x86_64"} | ({"10": os.environ["QEMU10"]} if "QEMU10" in os.environ else {})
"""The QEMU that is installed, and another one whose path the environment may name (bench/get-qemu10.sh)."""


class TestQemuMonitor(MonitorContract):
    uri = "exec:cat > /dev/null"
    busy_mib = 48
    nowhere = "unix:/nowhere"

    @pytest.fixture(params=BINARIES)
    def monitor(self, request: pytest.FixtureRequest) -> Iterator[Monitor]:
        binary = shutil.which(BINARIES[request.param])
        assert binary
        peer = Peer("qemu", binary=binary)
        with Lab() as lab:
            source = lab.start(peer.command(Load(128, 1, 48)), "source")
            source.wait_for_passes(2)
            yield source.monitor

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)
