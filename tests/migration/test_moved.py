"""What a page takes on the wire is one thing, how fast guest memory moves another; both are told as they are."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.migration.test_delta import busy_pair
from tests.support.loopback import LoopbackChannel, ManualClock, Pair, Writer
from vmferry.migration.compression import CompressionFigures
from vmferry.migration.events import BandwidthWindow, Decided, SwitchoverBegan
from vmferry.migration.moved import MovedMemory
from vmferry.migration.stats import BandwidthMeter
from vmferry.migration.status import MigrationStatus

MIB = 1 << 20
NS_PER_S = 10**9
NOTHING = CompressionFigures(
    on=True, plain_bytes=0, compressed_bytes=0, choices=0, plain_bytes_per_s=None, compressed_bytes_per_s=None
)


@dataclass
class Wire:
    """A channel as far as it is counted."""

    sent_bytes: int = 0
    compression: CompressionFigures | None = None


class Moving:
    def __init__(self, compression: CompressionFigures | None = None) -> None:
        self.clock, self.wire = ManualClock(), Wire(compression=compression)
        self.meter = BandwidthMeter(self.clock.now_ns(), 0)
        self.moved = MovedMemory(self.wire, self.clock, None)  # type: ignore[arg-type]

    def send(self, plain_bytes: int, wire_bytes: int, duration_ns: int = NS_PER_S) -> int:
        """Send pages for a window, and return what it is told to have saved."""
        self.clock.sleep_ns(duration_ns)
        self.wire.sent_bytes += wire_bytes
        if figures := self.wire.compression:
            plain, packed = figures.plain_bytes + plain_bytes, figures.compressed_bytes + wire_bytes
            self.wire.compression = replace(figures, plain_bytes=plain, compressed_bytes=packed)
        window = self.meter.update(self.clock.now_ns(), self.wire.sent_bytes)
        assert window
        return self.moved.close_window(window)


@given(st.lists(st.tuples(st.integers(0, 1 << 40), st.integers(10**8, 10**10), st.booleans()), max_size=8))
def test_where_pages_go_as_they_are_it_is_exactly_what_the_link_carries(windows: list[tuple[int, int, bool]]) -> None:
    moving = Moving()
    for sent_bytes, duration_ns, iteration_begins in windows:
        assert moving.send(sent_bytes, sent_bytes, duration_ns) == 0
        assert moving.moved.bytes_per_s == moving.meter.bytes_per_s
        assert moving.moved.total_bytes == moving.wire.sent_bytes
        assert moving.moved.wire_share == 1
        if iteration_begins:
            moving.moved.begin_iteration()


def test_what_was_saved_counts_in_full() -> None:
    moving = Moving(NOTHING)
    assert moving.send(30 * MIB, 10 * MIB) == 20 * MIB
    assert moving.moved.bytes_per_s == 30 * MIB
    assert moving.moved.wire_share == pytest.approx(1 / 3)
    assert moving.moved.total_bytes == 30 * MIB


def test_pages_that_shrink_more_than_those_of_the_last_two_iterations_promise_nothing() -> None:
    moving = Moving(NOTHING)
    moving.send(10 * MIB, 10 * MIB)
    moving.send(90 * MIB, 10 * MIB)
    assert moving.moved.bytes_per_s == 50 * MIB
    moving.moved.begin_iteration()
    moving.send(80 * MIB, 10 * MIB)
    moving.moved.begin_iteration()
    moving.send(120 * MIB, 10 * MIB)
    assert moving.moved.bytes_per_s == 100 * MIB, "that of the iteration before and this one"
    moving.send(10 * MIB, 10 * MIB)
    assert moving.moved.bytes_per_s == 10 * MIB, "pages that do not shrink are believed at once"
    assert moving.moved.wire_share == 1


def test_a_guest_whose_changes_fit_the_link_is_not_slowed_although_its_pages_would_not() -> None:
    whole, delta = (busy_pair(xbzrle=xbzrle) for xbzrle in (False, True))
    for pair in (whole, delta):
        assert pair.source.run() is MigrationStatus.COMPLETED
        assert np.array_equal(pair.here.ram, pair.there.ram)
    assert whole.here.max_throttle_percent > 0
    assert delta.here.max_throttle_percent == 0
    assert not delta.events(Decided)
    [began] = delta.events(SwitchoverBegan)
    assert began.remaining_bytes <= began.threshold_bytes


def test_the_journal_tells_of_both() -> None:
    pair = busy_pair(64 << 10, 60, xbzrle=True, auto_converge=False)
    assert pair.source.run() is MigrationStatus.COMPLETED
    info = pair.source.info()
    assert info.xbzrle_cache
    windows = pair.events(BandwidthWindow)
    saved_bytes = info.xbzrle_cache.pages * 4096 - info.xbzrle_cache.bytes
    assert 0 < sum(window.saved_bytes for window in windows) <= saved_bytes
    assert all(window.saved_bytes == 0 for window in windows if window.remaining_bytes > 200 * 4096)


class DeepChannel(LoopbackChannel):
    """The buffers on the way take everything at once; the link behind them carries 10 MiB/s."""

    def flush(self, while_blocked: Callable[[], None]) -> None:
        carried_ns = (self.sent_bytes - self._arrived_bytes) * NS_PER_S // (10 * MIB)
        self._arrived_bytes = self.sent_bytes
        for _ in range(carried_ns // 50_000_000):
            self._pair.clock.time_ns += 50_000_000
            while_blocked()

    _arrived_bytes = 0


def test_what_buffers_take_at_once_is_no_speed_and_that_nothing_is_sent_while_they_empty_none_either() -> None:
    pair = Pair(4096, bytes_per_s=1000 * MIB, make_channel=DeepChannel, downtime_limit=300, auto_converge=False)
    Writer(pair, page_count=1024, pages_per_s=1500)
    pair.source.run()
    assert pair.source.status is MigrationStatus.COMPLETED
    (began,) = pair.events(SwitchoverBegan)
    assert 2 * MIB < began.threshold_bytes < 4 * MIB
    assert 0 < began.remaining_bytes <= began.threshold_bytes
