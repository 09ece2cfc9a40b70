"""What a measurement of a modelled QEMU's guest could not find out is said."""

import itertools

import pytest

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.control.asking.survey import Busyness
from vmferry.experiment.experiment import experiment_of
from vmferry.simulation.qemu.lab import ModelledLab
from vmferry.simulation.qemu.releases import find_release
from vmferry.study.measured_survey import survey_vm
from vmferry.study.survey import Survey
from vmferry.study.told import work_out

MIB = 1 << 20
CALM = {"pattern": "sweep", "memory": "100M", "write-rate": "20MB/s", "duration": "900ms"}
BURST = {"pattern": "sweep", "memory": "300M", "write-rate": "2GB/s", "duration": "500ms"}


def modelled(*loads: dict[str, str]) -> ModelledLab:
    scenario = experiment_of({
        "name": "guest",
        "guest": {"memory": "512M", "vcpus": 1, "loads": list(loads)},
        "link": {"rate": "100MiB/s"},
    })  # fmt: skip
    return ModelledLab(scenario, find_release("qemu-10"), 1)


def surveyed(lab: ModelledLab, monitor: Monitor) -> Survey:
    _, survey = survey_vm(monitor, lab.clock, CancelToken(), 100 * MIB, 300)
    return survey


def unknown(*loads: dict[str, str]) -> str:
    lab = modelled(*loads)
    return "\n".join(surveyed(lab, lab.connect()).unknown)


def test_a_guest_that_was_seen_to_write_in_bursts_is_said_to() -> None:
    assert "whether its bursts go on as in the 8 s for which it was watched: it wrote up to" in unknown(CALM, BURST)


@pytest.mark.parametrize("load", [CALM, BURST, {"pattern": "idle"}, {**BURST, "pattern": "uniform"}], ids=str)
def test_a_steady_guest_is_not_said_to_write_in_bursts(load: dict[str, str]) -> None:
    assert "bursts" not in unknown(load)


def test_looks_at_a_guest_that_waits_for_a_processor_show_no_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    waited_s = itertools.count()

    class Crowded(Busyness):
        def waited_ns(self) -> float:
            return next(waited_s) * 1e9

    monkeypatch.setattr("vmferry.study.measured_survey.Busyness", Crowded)
    assert "bursts" not in unknown(CALM, BURST)


def test_of_a_qemu_that_packs_its_pages_nobody_knows_how_small_they_become() -> None:
    lab = modelled(CALM)
    monitor = lab.connect()
    monitor.execute("migrate-set-parameters", {"multifd-compression": "zstd"})
    assert surveyed(lab, monitor).times_smaller == 1, "without channels it does not"
    multifd = {"capability": "multifd", "state": True}
    monitor.execute("migrate-set-capabilities", {"capabilities": [multifd]})
    survey = surveyed(lab, monitor)
    assert survey.shrinking is None
    assert any("how much smaller compression or xbzrle makes pages" in what for what in survey.unknown)


def test_of_a_paused_guest_nothing_is_said_that_was_not_seen() -> None:
    lab = modelled(BURST)
    monitor = lab.connect()
    monitor.execute("stop")
    survey = surveyed(lab, monitor)
    assert survey.paused
    assert "what the guest writes when it runs: it is paused" in survey.unknown
    assert survey.demand == 1, "how busy it is when it runs nobody has seen"
    told = work_out("guest", survey)
    assert (told.verdict, told.sentence) == ("will", "It will converge, best without a throttle.")
    assert told.reason.startswith("As long as it is paused, only the ")
