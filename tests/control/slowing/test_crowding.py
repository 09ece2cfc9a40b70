"""What others leave of a processor to each thread, as the scheduler's counts tell it."""

import pytest

from vmferry.client.processes import Scheduled, Thread
from vmferry.control.slowing.crowding import Crowding
from vmferry.units import NS_PER_MS

VCPU = Thread(1, 1)


class Host:
    """A clock, and how long the thread has waited for a processor so far."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.waited_ns: int | None = 0

    def scheduled(self, thread_id: int) -> Scheduled:
        if self.waited_ns is None:
            raise FileNotFoundError(thread_id)
        return Scheduled(0, self.waited_ns)

    def passes(self, ms: int, *, waited_ms: int) -> None:
        self.now_ns += ms * NS_PER_MS
        self.waited_ns = (self.waited_ns or 0) + waited_ms * NS_PER_MS


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host()
    monkeypatch.setattr("vmferry.control.slowing.crowding.Scheduled.of", host.scheduled)
    return host


@pytest.fixture
def crowding(host: Host) -> Crowding:
    crowding = Crowding(lambda: host.now_ns)
    crowding.let_run(VCPU)
    return crowding


@pytest.mark.parametrize(("waited_ms", "left"), [(0, 1.0), (750, 0.25), (1000, 0.2), (1500, 0.2)])
def test_what_is_left_is_the_time_in_which_it_did_not_wait(
    host: Host, crowding: Crowding, waited_ms: int, left: float
) -> None:
    host.passes(1000, waited_ms=waited_ms)
    assert crowding.left_to(VCPU) == left


def test_what_was_found_last_holds_while_it_is_slowed(host: Host, crowding: Crowding) -> None:
    host.passes(1000, waited_ms=500)
    assert crowding.left_to(VCPU) == 0.5
    host.passes(1000, waited_ms=990)
    assert crowding.left_to(VCPU) == 0.5
    crowding.let_run(VCPU)
    host.passes(100, waited_ms=90)
    assert crowding.left_to(VCPU) == 0.5, "too short a time tells nothing"
    crowding.let_run(VCPU)
    host.passes(1000, waited_ms=0)
    crowding.let_run(VCPU)
    host.passes(1000, waited_ms=500)
    assert crowding.left_to(VCPU) == 0.75, "it was let run twice, and looked at all the time"


def test_of_a_thread_that_cannot_be_seen_nothing_is_known(host: Host, crowding: Crowding) -> None:
    host.now_ns, host.waited_ns = 1000 * NS_PER_MS, None
    assert crowding.left_to(VCPU) == 1.0
    crowding.let_run(VCPU)
    assert crowding.left_to(VCPU) == 1.0
