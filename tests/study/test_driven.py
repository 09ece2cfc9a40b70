"""The shipped driver drives a modelled QEMU, in virtual time."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from tests.simulation.qemu.scenes import scenario
from tests.support.known import known
from vmferry.cli.main import vmferry
from vmferry.control.asking.sensors import WINDOW_MS
from vmferry.convergence.variants import VARIANTS
from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.events import Decided, Measured, Started
from vmferry.simulation.qemu.releases import RELEASES
from vmferry.study.driven import DrivenRun, simulate_driven

RESPONSIVE = "background-sync+responsive-throttle"
SLOW_LINK = "[parameters]\nmax-bandwidth = 52428800\ndowntime-limit = 100"
BUSY = scenario("192M", "96M", more=SLOW_LINK)
FILE = """
name = "busy"
[guest]
memory = "192M"
vcpus = 1
[[guest.loads]]
pattern = "sweep"
memory = "96M"
write-rate = "1GB/s"
[link]
rate = "50MiB/s"
"""


@pytest.fixture(params=RELEASES)
def busy(request: pytest.FixtureRequest) -> Experiment:
    return BUSY.driven_by(request.param)


def test_a_guest_that_qemu_alone_moves_late_is_moved_early(busy: Experiment) -> None:
    own, driven = (simulate_driven(busy, variant) for variant in ("original", RESPONSIVE))
    assert (own.status, driven.status) == ("completed", "completed")
    assert known(driven.total_time_ms) < 0.5 * known(own.total_time_ms)
    assert 0 < known(driven.work_lost_vcpu_s) < known(own.work_lost_vcpu_s)


def test_the_journal_has_what_was_measured_and_decided(busy: Experiment) -> None:
    entries = simulate_driven(busy, RESPONSIVE).entries
    events = [entry.event for entry in entries]
    assert isinstance(events[0], Started)
    assert {event.mode for event in events if isinstance(event, Measured)} == {"dirty-bitmap"}
    assert max(event.throttle_percent for event in events if isinstance(event, Decided)) > 50


def test_the_same_seed_gives_the_same_journal(busy: Experiment) -> None:
    first, again = (msgspec.json.encode(simulate_driven(busy, RESPONSIVE, seed=1)) for _ in range(2))
    assert first == again


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_vm_is_left_as_it_was(busy: Experiment, variant: str) -> None:
    run = DrivenRun(busy, variant)
    before = run.lab.host.settings.parameters, run.lab.host.settings.capabilities
    result = run.run()
    assert result.completed
    assert (run.lab.host.settings.parameters, run.lab.host.settings.capabilities) == before
    assert run.lab.guest.throttle_percent == 0
    run.lab.clock.sleep_ns(2_000_000_000)  # a measurement may not be over
    run.lab.clock.sleep_ns(WINDOW_MS * 1_000_000)  # a measurement that goes on ends by itself
    assert not run.lab.guest.logging
    assert run.lab.destination.runs_guest
    assert run.lab.running_guests == 1


def test_a_held_destination_is_let_run(busy: Experiment) -> None:
    run = DrivenRun(busy, RESPONSIVE, holds_destination=True)
    assert run.run().completed
    assert (run.lab.host.run_state, run.lab.destination.run_state) == ("postmigrate", "running")


def test_time_that_is_up_cancels(busy: Experiment) -> None:
    short = msgspec.structs.replace(busy, limits=msgspec.structs.replace(busy.limits, max_time_ns=2_000_000_000))
    run = DrivenRun(short, "original")
    assert run.run().last.status == "cancelled"
    assert (run.lab.host.run_state, run.lab.running_guests) == ("running", 1)


def test_an_unknown_release_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no QEMU 'qemu-1' is modelled; there are: qemu-7.2, qemu-10"):
        parse_scenario(f'driven = "qemu-1"\n{FILE}'.encode(), "file")


def test_simulate_and_sweep_drive_it(tmp_path: Path) -> None:
    path, results, journal = (tmp_path / name for name in ("busy.toml", "results", "journal"))
    path.write_text(FILE)
    words = [str(path), "--driven", "qemu-7.2", "--variant", RESPONSIVE]
    shown = CliRunner().invoke(vmferry, ["simulate", *words, "--journal", str(journal)])
    assert shown.exit_code == 0
    assert "busy, qemu-7.2" in shown.stdout
    assert CliRunner().invoke(vmferry, ["report", str(journal)]).stdout.count("What was decided") == 1
    assert CliRunner().invoke(vmferry, ["sweep", *words, "--jobs", "1", "--output", str(results)]).exit_code == 0
    told = json.loads(CliRunner().invoke(vmferry, ["simulate", *words, "--json"]).stdout)
    assert json.loads(results.read_text())["result"] == told | {"entries": []}


def test_what_is_not_qemus_is_left_out_of_what_it_decides_itself_and_a_time_scale_refused(busy: Experiment) -> None:
    ours = msgspec.structs.replace(busy, parameters={**busy.parameters, "x-dirty-log-rearm": "early"})
    assert simulate_driven(ours, "no-auto-converge").entries == simulate_driven(busy, "no-auto-converge").entries
    scaled = msgspec.structs.replace(busy, time_scale=10)
    assert DrivenRun(scaled, "no-auto-converge")
    with pytest.raises(UsageError, match="time-scale is 10, but QEMU's own auto-converge, which 'original' is, has"):
        DrivenRun(scaled, "original")
