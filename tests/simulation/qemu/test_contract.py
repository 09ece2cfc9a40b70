"""The modelled QEMUs keep the contract of monitors, as real ones do (tests/end_to_end/test_monitors.py)."""

import pytest

from tests.simulation.qemu.scenes import BUSY
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.monitor import ModelledMonitor
from vmferry.simulation.qemu.releases import RELEASES
from vmferry.testing.monitor import MonitorContract


class TestModelledMonitor(MonitorContract):
    uri = URI
    busy_mib = 96
    nowhere = "tcp:modelled:5555"

    @pytest.fixture(params=RELEASES)
    def monitor(self, request: pytest.FixtureRequest) -> ModelledMonitor:
        self.lab = ModelledLab(BUSY, RELEASES[request.param], seed=0)
        return self.lab.connect()

    def wait(self, seconds: float) -> None:
        self.lab.clock.sleep_ns(round(seconds * 1e9))
