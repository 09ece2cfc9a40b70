"""No page that was written is lost, whoever syncs and arms, and what a measurement counts is what its syncs find."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vmferry.memory.bitmap import Bitmap
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.qemu.dirty_log import CHUNK_PAGES, ModelledDirtyLog
from vmferry.simulation.qemu.ram import Ram
from vmferry.simulation.workload import Workload

PAGES = CHUNK_PAGES + 3 * 64
"""The second chunk is a small one."""
FIRST = [0, 1, 70, CHUNK_PAGES - 1, CHUNK_PAGES, CHUNK_PAGES + 65]


class Written:
    """A pattern that writes what it is told, as soon as any time has passed."""

    def __init__(self) -> None:
        self.next: set[int] = set()

    def write(self, cpu_ns: int, bitmap: Bitmap) -> None:
        bitmap.set_pages(np.array(sorted(self.next), np.int64))
        self.next.clear()

    def areas(self) -> list[tuple[int, int]]:
        return [(0, PAGES)]


class Bench:
    """A guest, its log, and a migration that has sent everything once."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.pattern = Written()
        self.guest = SimulatedGuest(self.clock, PAGES, 1, Workload.together(self.pattern))
        self.log = ModelledDirtyLog(self.guest)
        self.log.start()
        self.ram = Ram(self.guest, self.log)
        self.ram.sync()
        while self.ram.waiting_pages:
            self.ram.take(PAGES)

    def write(self, pages: set[int]) -> None:
        self.pattern.next |= pages
        self.clock.sleep_ns(1)
        self.guest.catch_up()


operations = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sets(st.sampled_from(FIRST), min_size=1)),
        st.tuples(st.sampled_from(("sync", "measure", "begin", "take"))),
    ),
    max_size=25,
)


@given(operations)
def test_a_page_written_after_it_was_sent_is_sent_again(steps: list[Any]) -> None:
    bench, stale = Bench(), set[int]()
    for kind, *pages in steps:
        match kind:
            case "write":
                bench.write(pages[0])
                stale |= pages[0]
            case "sync":
                bench.ram.sync()
            case "measure":
                bench.log.sync()
            case "begin":
                bench.log.sync()
                bench.log.arm_all()
            case "take":
                stale -= {page for page in FIRST if bench.ram.is_waiting(page)}
                bench.ram.take(PAGES)
                bench.ram.take(PAGES)
    bench.ram.sync()
    assert all(bench.ram.is_waiting(page) for page in stale)
    assert bench.ram.waiting_pages >= len(stale)


def test_a_page_counts_once_in_a_measurement_but_anew_after_it_was_armed() -> None:
    bench = Bench()
    bench.log.sync()
    bench.log.arm_all()
    before = bench.log.found_pages
    bench.write({1})
    bench.write({1})
    bench.log.sync()
    assert bench.log.found_pages - before == 1
    bench.ram.sync()  # a sync of the migration, which arms what it sends
    bench.ram.take(PAGES)
    bench.write({1})
    bench.log.sync()
    assert bench.log.found_pages - before == 3


def test_a_sync_of_others_leaves_the_migration_what_it_has_found() -> None:
    bench = Bench()
    bench.write({70})
    bench.log.sync()
    bench.log.arm_all()
    assert bench.ram.sync() == 1
