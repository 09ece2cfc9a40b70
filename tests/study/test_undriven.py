"""A modelled QEMU that migrates by itself, and when a guest is given up."""

import pytest

from tests.support.known import known
from vmferry.experiment.experiment import Experiment, experiment_of
from vmferry.migration.outcome import Outcome
from vmferry.study.driven import simulate_driven
from vmferry.study.headway import Headway
from vmferry.study.survey import QEMU_NEW, QEMU_OLD
from vmferry.study.undriven import simulate_undriven

MIB = 1 << 20


def busy(release: str) -> Experiment:
    load = {"pattern": "sweep", "memory": "48M", "write-rate": "400MiB/s"}
    guest = {"memory": "64M", "vcpus": 2, "used-memory": "64M", "throttle-slice": "10ms", "loads": [load]}
    plain = {"name": "busy", "guest": guest, "link": {"rate": "50MiB/s"}, "parameters": {"downtime-limit": 300}}
    return experiment_of(plain).driven_by(release)


def alone(release: str, headway: Headway, *, auto_converge: bool) -> Outcome:
    return simulate_undriven(busy(release), 0, auto_converge=auto_converge, is_lost=headway.is_lost)


@pytest.mark.parametrize("release", [QEMU_OLD, QEMU_NEW])
def test_alone_a_qemu_does_what_it_does_with_a_driver_that_looks_on(release: str) -> None:
    by_itself = simulate_undriven(busy(release), 0, auto_converge=True, is_lost=lambda remaining, sent: False)
    watched = simulate_driven(busy(release), "original")
    assert by_itself.completed
    assert watched.completed
    assert by_itself.total_time_ms == pytest.approx(known(watched.total_time_ms), rel=0.02)
    assert by_itself.sent_bytes == pytest.approx(known(watched.sent_bytes), rel=0.05)
    assert by_itself.work_lost_vcpu_s == pytest.approx(known(watched.work_lost_vcpu_s), rel=0.05)


def test_a_guest_that_never_leaves_less_is_given_up_after_some_passes() -> None:
    outcome = alone(QEMU_NEW, Headway(), auto_converge=False)
    assert not outcome.completed
    assert known(outcome.sent_bytes) < 8 * 64 * MIB


def test_passes_are_counted_by_what_was_sent_and_not_by_syncs() -> None:
    headway = Headway()
    assert not headway.is_lost(100, 0)
    assert not any(headway.is_lost(100, sent) for sent in range(0, 401, 10)), "syncs within four passes"
    assert not headway.is_lost(60, 410)
    assert not headway.is_lost(60, 650)
    assert headway.is_lost(60, 651)
