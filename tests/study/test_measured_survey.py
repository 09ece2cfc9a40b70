"""What a measurement of a modelled QEMU's guest could not find out is said."""

import pytest

from vmferry.cancel import CancelToken
from vmferry.experiment.experiment import experiment_of
from vmferry.simulation.qemu.lab import ModelledLab
from vmferry.simulation.qemu.releases import find_release
from vmferry.study.measured_survey import survey_vm

MIB = 1 << 20
CALM = {"pattern": "sweep", "memory": "100M", "write-rate": "20MB/s", "duration": "900ms"}
BURST = {"pattern": "sweep", "memory": "300M", "write-rate": "2GB/s", "duration": "500ms"}


def unknown(*loads: dict[str, str]) -> str:
    scenario = experiment_of({
        "name": "guest",
        "guest": {"memory": "512M", "vcpus": 1, "loads": list(loads)},
        "link": {"rate": "100MiB/s"},
    })  # fmt: skip
    lab = ModelledLab(scenario, find_release("qemu-10"), 1)
    _, survey = survey_vm(lab.connect(), lab.clock, CancelToken(), 100 * MIB, 300)
    return "\n".join(survey.unknown)


def test_a_guest_that_was_seen_to_write_in_bursts_is_said_to() -> None:
    assert "how long its bursts and its calms last: it wrote" in unknown(CALM, BURST)


@pytest.mark.parametrize("load", [CALM, BURST, {"pattern": "idle"}, {**BURST, "pattern": "uniform"}], ids=str)
def test_a_steady_guest_is_not_said_to_write_in_bursts(load: dict[str, str]) -> None:
    assert "bursts" not in unknown(load)
