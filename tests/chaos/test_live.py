"""Real VMs under drawn faults: few runs, but the same ones at every time; `python -m bench.chaos` makes thousands."""

import dataclasses
from collections.abc import Iterator

import pytest
from bench.chaos import vms
from bench.chaos.bodies import ours, qemus
from bench.chaos.check import Outcome
from bench.chaos.faults import Direction, Nothing, Place, generator
from bench.chaos.live import run_many
from bench.chaos.live_run import LiveRun
from bench.chaos.vms import Vm
from bench.peers import Load

from vmferry.perf.lab import Lab

pytestmark = pytest.mark.kvm
SMALL = dataclasses.replace(ours(), load=Load(32, 1, 8))


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def test_our_vms_keep_their_promises() -> None:
    records = list(run_many(SMALL, 4, [0, 1, 2, 3]))
    assert [(record.number, record.violations) for record in records if record.violations] == []
    assert {record.outcome for record in records} >= {Outcome.MOVED, Outcome.STAYED}


@pytest.mark.qemu
def test_qemus_vms_keep_their_promises() -> None:
    [body] = qemus(None)
    records = list(run_many(body, 2, [1, 5]))
    assert [(record.number, record.violations) for record in records if record.violations] == []


def test_two_running_guests_are_seen(lab: Lab) -> None:
    one, other = (Vm(lab, SMALL.peer, SMALL.load, name, None) for name in ("one", "two"))
    run = LiveRun(SMALL, one, other, SMALL.settings(generator(1, 1)), Nothing(Place(Direction.THERE, 0)))
    run._look()
    assert run._both_ran


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vms, "holds", lambda condition: condition())


@pytest.mark.usefixtures("impatient")
def test_what_was_not_put_back_is_named(lab: Lab) -> None:
    vm = Vm(lab, SMALL.peer, SMALL.load, "vm", None)
    before = vm.state()
    vm.process.monitor.execute("migrate-set-parameters", {"downtime-limit": 77})
    [difference] = vm.differences(before, set(before))
    assert difference == "parameters: {'downtime-limit': 300} before, {'downtime-limit': 77} now"


@pytest.mark.usefixtures("impatient")
def test_a_guest_that_went_back_is_damaged(lab: Lab) -> None:
    vm = Vm(lab, SMALL.peer, SMALL.load, "vm", None)
    vm.process.wait_for_passes(1)
    assert vm.damage(0, 1) == ""
    assert "not go on at its speed" in vm.damage(0, 1e12)
    assert "went back" in vm.damage(1 << 50, 1)
