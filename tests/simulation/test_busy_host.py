import numpy as np
import pytest

from vmferry.simulation.busy_host import BusyHost
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.host_model import HostModel
from vmferry.simulation.patterns import SweepPattern
from vmferry.simulation.workload import Workload

S = 1_000_000_000
MS = 1_000_000


def host(stolen: float) -> BusyHost:
    return BusyHost(stolen, 50 * MS, np.random.default_rng(1))


@pytest.mark.parametrize("stolen", [0.2, 0.8])
def test_others_have_their_share_of_the_time_however_often_one_asks(stolen: float) -> None:
    asked = host(stolen)
    stretches = [list(asked.free(ms * 5 * MS, (ms + 1) * 5 * MS)) for ms in range(40_000)]
    free_ns = sum(stop_ns - start_ns for free in stretches for start_ns, stop_ns in free)
    assert abs(free_ns / (200 * S) - (1 - stolen)) < 0.03
    [*at_once] = host(stolen).free(0, 200 * S)
    assert sum(stop_ns - start_ns for start_ns, stop_ns in at_once) == free_ns


@pytest.mark.parametrize(("slice_ns", "left"), [(10 * MS, 0.1 * 0.5), (0, 0.1)])
def test_a_throttle_by_sleeps_loses_what_others_take_and_a_quota_is_used_later(slice_ns: int, left: float) -> None:
    clock, pages = VirtualClock(), 1_000_000
    writer = Workload.together(SweepPattern(0, pages, 1000))
    written = []
    guest = SimulatedGuest(
        clock,
        pages,
        1,
        writer,
        HostModel(throttle_slice_ns=slice_ns, busy=host(0.5)),
        on_write=lambda w: written.append(w.count()),
    )
    guest.set_throttle(90)
    for _ in range(20_000):
        clock.sleep_ns(10 * MS)
        guest.catch_up()
    assert abs(sum(written) / (200 * 1000) - left) < 0.01
