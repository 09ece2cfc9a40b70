"""A modelled guest: bitmaps instead of memory, a workload instead of vCPUs, and virtual time.

What it has written is worked out when somebody looks, so 100 GiB cost megabytes and a quiet hour costs nothing.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vmferry.errors import PeerError
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.ranges import PageRuns
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.host_model import IDEAL_HOST, HostModel
from vmferry.simulation.workload import Workload
from vmferry.units import PAGE_SIZE_BYTES

_STATE = b"simulated guest"


class SimulatedGuest:
    """Implements the `Guest` port. Without a workload it writes nothing.

    Memory is zero but for the first `used_page_count` pages and what the workload ever writes.

    `on_write` is told, whenever the guest has come to write, which pages it wrote; tests follow content with it.
    """

    def __init__(
        self,
        clock: VirtualClock,
        page_count: int,
        vcpu_count: int,
        workload: Workload | None = None,
        host: HostModel = IDEAL_HOST,
        *,
        used_page_count: int = 0,
        running: bool = True,
        on_write: Callable[[Bitmap], None] | None = None,
    ) -> None:
        self.layout = GuestLayout((RamBlock("pc.ram", page_count),), vcpu_count)
        self.running = running
        self.lost_ns = 0
        """How much CPU time throttles took from a vCPU, in the mean of all."""
        self._clock = clock
        self._workload = workload
        self._costs = host.costs
        self._busy_host = host.busy
        self._on_write = on_write
        self._throttles: list[float] = [0]
        """Those in force, each once."""
        self._throttle_of_vcpu = np.zeros(vcpu_count, np.int64)
        self._rings = [Bitmap(page_count) for _ in range(vcpu_count)] if host.dirty_ring else []
        self._vcpu_dirty_pages: tuple[int, ...] | None = None
        self.throttle_slice_ns = host.throttle_slice_ns
        self._throttled_since_ns = clock.now_ns()
        self._logging = False
        self._log = Bitmap(page_count)
        self._used = Bitmap(page_count)
        self._used.set_range(0, used_page_count)
        for first, count in workload.areas() if workload else []:
            self._used.set_range(first, count)
        self._has_zero_pages = self._used.count() < page_count
        self._seen_ns = clock.now_ns()

    @property
    def throttle_percent(self) -> float:
        """The throttle in force, or the greatest."""
        return max(self._throttles)

    @property
    def used_bytes(self) -> int:
        """How much of its memory holds something, or ever will."""
        return self._used.count() * PAGE_SIZE_BYTES

    @property
    def used_end(self) -> int:
        """The page behind the last one that holds something, or ever will."""
        runs = self._used.runs()
        return runs.last_page + 1 if runs else 0

    @property
    def logging(self) -> bool:
        """True while the dirty log is on."""
        return self._logging

    def pause(self) -> None:
        self.catch_up()
        self.running = False

    def resume(self) -> None:
        self.catch_up()
        self.running = True

    def set_throttle(self, percent: float) -> None:
        self.set_vcpu_throttles((percent,) * self.layout.vcpu_count)

    def set_vcpu_throttles(self, percents: Sequence[float]) -> None:
        self.catch_up()
        self._throttles = sorted(set(percents))
        self._throttle_of_vcpu = np.array([self._throttles.index(percent) for percent in percents])
        self._throttled_since_ns = self._seen_ns
        if self._busy_host:
            self._busy_host.forget_quotas()

    def find_touched(self, bitmap: Bitmap) -> None:
        """Tell which pages are ever used; where it takes time to find a page zero, all have been touched."""
        if self._costs.scan_ns_per_zero_page:
            bitmap.set_all()
        else:
            bitmap.copy_from(self._used)

    def start_dirty_log(self) -> None:
        self.catch_up()
        self._log.clear_all()
        self._logging = True

    def stop_dirty_log(self) -> None:
        self._logging = False

    def collect_dirty(self, bitmap: Bitmap) -> None:
        """Tell what is in the log, which takes time for every page of the guest."""
        self._clock.sleep_ns(round(self._costs.sync_ns_per_page * self.layout.page_count))
        self.catch_up()
        bitmap.copy_from(self._log)
        if self._rings:
            self._vcpu_dirty_pages = tuple(ring.count() for ring in self._rings)
            for ring in self._rings:
                ring.clear_all()

    def vcpu_dirty_pages(self) -> tuple[int, ...] | None:
        return self._vcpu_dirty_pages

    def arm(self, pages: PageRuns) -> None:
        """Forget what was written to these pages; the time that a sync takes includes it."""
        if pages:
            self._catch_up(pages.first_page, pages.last_page + 1)
            self._log.clear_runs(pages)

    def zero_pages(self, pages: PageRuns) -> NDArray[np.bool_]:
        """Return which pages were never used; finding one zero takes as long as reading it."""
        if not self._has_zero_pages:
            return np.zeros(pages.page_count, np.bool_)
        zero = ~self._used.test_runs(pages)
        self._clock.sleep_ns(round(self._costs.scan_ns_per_zero_page * np.count_nonzero(zero)))
        return zero

    def clear_pages(self, pages: PageRuns) -> None:
        """Nothing holds content here."""

    def save_state(self) -> bytes:
        """Return a state that any simulated guest can load."""
        return _STATE

    def load_state(self, blob: bytes) -> None:
        """Load the state of a simulated guest."""
        if blob != _STATE:
            raise PeerError("the guest's state is not that of a simulated guest")

    def memory_digest(self, page_count: int | None = None, while_reading: Callable[[], None] = lambda: None) -> bytes:
        """Return nothing: there is no content, so the parameter `verify` compares nothing here."""
        return b""

    def catch_up(self) -> None:
        """Work out what was written since the last time."""
        self._catch_up(0, self.layout.page_count)

    def _catch_up(self, first_page: int, end_page: int) -> None:
        """Do so at least between these pages; the others can wait until somebody looks at them."""
        self._let_pass()
        workload = self._workload
        if workload is None:
            return
        if self._rings:
            self._write_apart(workload, first_page, end_page)
        elif self._on_write:
            written = Bitmap(self.layout.page_count)
            workload.write(written, first_page, end_page)
            self._log |= written
            self._on_write(written)
        else:
            workload.write(self._log, first_page, end_page)

    def _let_pass(self) -> None:
        start_ns, self._seen_ns = self._seen_ns, self._clock.now_ns()
        passed_ns = self._seen_ns - start_ns
        if not self.running or not passed_ns or self._workload is None:
            return
        free = [(start_ns, self._seen_ns)]
        if self._busy_host:
            free = list(self._busy_host.free(start_ns, self._seen_ns))
        free_ns = sum(stop_ns - begin_ns for begin_ns, stop_ns in free)
        of_throttle = [self._run_ns(passed_ns, free, free_ns, percent) for percent in self._throttles]
        if len(of_throttle) == 1:
            self.lost_ns += free_ns - of_throttle[0]
            self._workload.let_pass(passed_ns, of_throttle[0])
            return
        cpus_ns = np.array(of_throttle)[self._throttle_of_vcpu]
        self.lost_ns += free_ns - int(cpus_ns.sum()) // len(cpus_ns)
        self._workload.let_pass(passed_ns, cpus_ns)

    def _write_apart(self, workload: Workload, first_page: int, end_page: int) -> None:
        fresh = [Bitmap(self.layout.page_count) for _ in self._rings]
        workload.write_apart(fresh, first_page, end_page)
        for ring, written in zip(self._rings, fresh, strict=True):
            ring |= written
            self._log |= written

    def _run_ns(self, passed_ns: int, free: Sequence[tuple[int, int]], free_ns: int, percent: float) -> int:
        """Return how long a throttle lets a vCPU run, where there were processors in these times."""
        if self._busy_host and not self.throttle_slice_ns:
            return self._busy_host.used_ns(passed_ns, free_ns, percent)
        return sum(self._cpu_ns(begin_ns, stop_ns, percent) for begin_ns, stop_ns in free)

    def _cpu_ns(self, start_ns: int, end_ns: int, percent: float) -> int:
        """Return how long a throttle lets a vCPU run between two times."""
        if not self.throttle_slice_ns:
            return end_ns - start_ns - int((end_ns - start_ns) * percent // 100)
        return self._sliced_ns(end_ns, percent) - self._sliced_ns(start_ns, percent)

    def _sliced_ns(self, time_ns: int, percent: float) -> int:
        """Return how long a vCPU ran since the throttle was set."""
        slice_ns = self.throttle_slice_ns
        sleep_ns = int(slice_ns * percent // (100 - percent))
        periods, rest_ns = divmod(time_ns - self._throttled_since_ns, slice_ns + sleep_ns)
        return periods * slice_ns + max(0, rest_ns - sleep_ns)
