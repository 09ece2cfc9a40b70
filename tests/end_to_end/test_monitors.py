"""Real QEMUs keep what the contract of monitors promises, as modelled ones do (tests/simulation/qemu/)."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.peers import Load, Peer

from vmferry.client.monitor import Monitor
from vmferry.perf.lab import Lab
from vmferry.testing.monitor import MonitorContract

pytestmark = [pytest.mark.kvm, pytest.mark.qemu, pytest.mark.xdist_group("kvm-timing")]
BINARIES = ("/usr/bin/qemu-system-x86_64", "/opt/qemu10/usr/bin/qemu-system-x86_64")


class TestQemuMonitor(MonitorContract):
    uri = "exec:cat > /dev/null"
    nowhere = "unix:/nowhere"

    @pytest.fixture(params=BINARIES)
    def monitor(self, request: pytest.FixtureRequest) -> Iterator[Monitor]:
        if not Path(request.param).exists():
            pytest.skip(f"{request.param} is not installed")
        peer = Peer("qemu", binary=request.param)
        with Lab() as lab:
            source = lab.start(peer.command(Load(128, 1, 48)), "source")
            source.wait_for_passes(2)
            yield source.monitor

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)
