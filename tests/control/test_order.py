"""What is made of an order, in situations that a real QEMU cannot be brought into at will."""

import pytest

from tests.support.fake_qemu import FakeQemu, answer
from vmferry.control import drive, order
from vmferry.control.drive import Progress, Result
from vmferry.control.order import Order, _Steered, carry_out
from vmferry.convergence.policy import find_variant

S = 1_000_000_000
MIB_PAGES = 256
RESPONSIVE = find_variant("background-sync+responsive-throttle")
DONE = answer("completed", 9)


def ignore(progress: Progress) -> None:
    pass


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Time goes on by two seconds with every poll."""
    now = [0]
    monkeypatch.setattr(order.time, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(drive, "POLL_INTERVAL_S", 0)
    return now


def steered(qemu: FakeQemu, clock: list[int], *told: list[str], **others: object) -> Result:
    """Carry out an order by what QEMU has itself, as nothing else can be had of a fake."""

    def watch(progress: Progress) -> None:
        clock[0] += 2 * S

    wanted = Order(**{"uri": "unix:/x", "variant": RESPONSIVE, "throttle_by": "auto-converge"} | others)  # type: ignore[arg-type]
    return carry_out(qemu, wanted, watch, *(lines.append for lines in told or [[]]))


def test_every_iteration_that_tells_qemu_a_new_dirty_rate_is_a_sample(clock: list[int]) -> None:
    """Nothing else can be measured, and QEMU's own rate is far over the bandwidth again and again."""
    course = [
        answer(
            dirty_sync_count=count,
            transferred=count * 100 << 20,
            dirty_pages_rate=(300 + count) * MIB_PAGES,
        )
        for count in range(2, 8)
    ]
    qemu = FakeQemu([*course, DONE])
    told: list[str] = []
    steered(qemu, clock, told)
    steps = [values["max-cpu-throttle"] for name, values in qemu.told if name == "migrate-set-parameters"]
    assert steps == [1, 50, 90, 99, 99]
    assert sum("end of iteration" in line for line in told) >= 3


class Quota:
    """A throttle that does nothing."""

    name, description, told_by_qemu, delays_stop = "cgroup", "", False, True
    released = 0

    def apply(self, percent: int, unthrottled_bytes_per_s: int) -> None: ...

    def release(self) -> None:
        self.released += 1


class Steering90:
    throttle_percent = 90
    dirty_bytes_per_s = 0.0


def test_the_guest_is_let_go_as_soon_as_qemu_wants_to_stop_it() -> None:
    """It is asked several times between two polls, and what it was asked first is not the end."""
    qemu, quota = FakeQemu([]), Quota()
    asked: list[str] = []

    def during(command: str) -> None:
        asked.append(command)
        qemu.run_state = "finish-migrate" if len(asked) == 3 else "running"

    qemu.during = during
    steered = _Steered(qemu, Steering90(), quota, {}, lambda line: None)  # type: ignore[arg-type]
    assert steered.complete(Progress.from_qmp({})).throttle_percent == 90
    steered.pause()
    assert (asked, quota.released) == (["query-status"] * 3, 1)
    assert steered.complete(Progress.from_qmp({})).throttle_percent == 0
