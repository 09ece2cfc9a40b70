"""Why migrations of modelled QEMUs did not complete, as it is counted."""

import pytest

from tests.simulation.qemu.scenes import scenario
from vmferry.agent.failures import Failure, failure_of
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.study.driven import DrivenRun
from vmferry.units import NS_PER_S


def run(limits: Limits = NO_LIMITS) -> DrivenRun:
    busy = scenario(more='[parameters]\nmax-bandwidth = 20971520\n[limits]\nmax-time = "60s"')
    return DrivenRun(busy.driven_by("qemu-7.2"), "original", limits=limits)


def test_who_goes_beyond_a_limit_is_given_up() -> None:
    assert failure_of(run(Limits(deadline_ns=5 * NS_PER_S)).run()) is Failure.GIVEN_UP


def test_a_link_that_is_lost_is_told_from_a_cancellation() -> None:
    lost, cancelled = run(), run()
    lost.lab.clock.schedule(4 * NS_PER_S, lost.lab.lose_link)
    cancelled.lab.clock.schedule(4 * NS_PER_S, lambda: cancelled.cancel.set("somebody wants it"))
    assert failure_of(lost.run()) is Failure.CONNECTION
    assert failure_of(cancelled.run()) is Failure.CANCELLED


@pytest.mark.parametrize(
    ("status", "error", "failure"),
    [
        ("completed", None, None),
        ("cancelled", "Unable to write to socket: Broken pipe", Failure.CANCELLED),
        ("cancelling", None, Failure.CANCELLED),
        ("in-doubt", "the connection is lost", Failure.IN_DOUBT),
        ("failed", "Unable to write to socket: Connection reset by peer", Failure.CONNECTION),
        ("failed", "Failed to connect to '10.0.0.1:4444': No route to host", Failure.CONNECTION),
        ("failed", "disk is full", Failure.OTHER),
        ("failed", None, Failure.OTHER),
        ("no state of QEMU's", None, Failure.OTHER),
    ],
)
def test_each_end_is_of_one_class(status: str, error: str | None, failure: Failure | None) -> None:
    answer = {"status": status} | ({"error-desc": error} if error else {})
    assert failure_of(Result(Progress.from_qmp(answer), 0)) is failure
