"""The modelled guest does what every guest does, as far as one without content can."""

from functools import partial

import numpy as np
from numpy.typing import NDArray

from vmferry.memory.bitmap import Bitmap
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.host_model import HostModel
from vmferry.simulation.patterns import SweepPattern
from vmferry.simulation.workload import Load, Turn, Turns, Workload, Writer
from vmferry.testing.guest import GuestContract, Numbers

PAGES = 1000
S = 1_000_000_000


class TestContract(GuestContract[SimulatedGuest]):
    """The content of a page is how often it was written."""

    def setup_method(self) -> None:
        self._parts: dict[int, tuple[SimulatedGuest, VirtualClock, NDArray[np.int64]]] = {}

    def make(self, *, empty: bool = False) -> SimulatedGuest:
        clock, writes = VirtualClock(), np.zeros(PAGES, np.int64)
        workload = None if empty else Workload.together(SweepPattern(0, PAGES // 2, pages_per_s=70))
        guest = SimulatedGuest(clock, PAGES, 1, workload, running=False, on_write=partial(_count, writes))
        self._parts[id(guest)] = guest, clock, writes
        return guest

    def content(self, guest: SimulatedGuest) -> Numbers:
        guest.catch_up()
        return self._parts[id(guest)][2].copy()

    def let_work(self, guest: SimulatedGuest) -> None:
        self._parts[id(guest)][1].sleep_ns(S)

    def let_time_pass(self) -> None:
        for _, clock, _ in self._parts.values():
            clock.sleep_ns(S)


def _count(writes: NDArray[np.int64], written: Bitmap) -> None:
    writes[written.runs().indices()] += 1


def test_the_throttle_leaves_its_share_of_the_time() -> None:
    for slice_ns in (0, S // 100):
        clock = VirtualClock()
        guest = SimulatedGuest(
            clock, PAGES, 1, Workload.together(SweepPattern(0, PAGES, 100)), HostModel(throttle_slice_ns=slice_ns)
        )
        guest.set_throttle(80)
        clock.sleep_ns(10 * S)
        guest.catch_up()
        assert guest.lost_ns == 8 * S


def test_each_vcpu_is_left_its_own_share_of_the_time() -> None:
    for slice_ns in (0, S // 100):
        clock, log = VirtualClock(), Bitmap(PAGES)
        writers = [
            Writer(range(vcpu, vcpu + 1), Turns([Turn(1, Load(SweepPattern(100 * vcpu, 100, 10)))])) for vcpu in (0, 1)
        ]
        guest = SimulatedGuest(clock, PAGES, 2, Workload(writers), HostModel(throttle_slice_ns=slice_ns))
        guest.start_dirty_log()
        guest.set_vcpu_throttles([80, 0])
        clock.sleep_ns(5 * S)
        guest.collect_dirty(log)
        assert log.runs().indices().tolist() == [*range(10), *range(100, 150)]
        assert guest.lost_ns == 2 * S
        assert guest.throttle_percent == 80


def test_the_log_begins_when_it_is_started() -> None:
    clock, log = VirtualClock(), Bitmap(PAGES)
    guest = SimulatedGuest(clock, PAGES, 1, Workload.together(SweepPattern(0, PAGES, 100)))
    clock.sleep_ns(S)
    guest.start_dirty_log()
    clock.sleep_ns(S)
    guest.collect_dirty(log)
    assert log.runs().indices().tolist() == list(range(100, 200))
