"""What every implementation of the `Guest` port promises. Subclass, and say how to make one and let it work."""

import time

import numpy as np

from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.migration.ports import Guest


class GuestContract:
    """`make` returns a paused guest that writes when it runs; `content` one number for each page's content."""

    def make(self, *, empty: bool = False) -> Guest:
        raise NotImplementedError

    def content(self, guest: Guest) -> np.ndarray:
        raise NotImplementedError

    def let_work(self, guest: Guest) -> None:
        """Let the running guest write something."""
        raise NotImplementedError

    def copy_memory(self, source: Guest, target: Guest) -> None:
        raise NotImplementedError

    def test_a_paused_guest_writes_nothing(self) -> None:
        guest = self.make()
        for _ in range(3):
            guest.resume()
            assert guest.running
            self.let_work(guest)
            guest.pause()
            assert not guest.running
            before = self.content(guest)
            time.sleep(0.05)
            assert np.array_equal(before, self.content(guest))

    def test_the_dirty_log_finds_every_page_written_and_only_once(self) -> None:
        guest = self.make()
        guest.resume()
        self.let_work(guest)
        guest.pause()
        guest.start_dirty_log()
        log = Bitmap(guest.layout.page_count)
        guest.collect_dirty(log)
        for _ in range(3):
            before = self.content(guest)
            guest.resume()
            self.let_work(guest)
            guest.pause()
            guest.collect_dirty(log)
            changed = np.flatnonzero(before != self.content(guest))
            assert len(changed)
            assert log.test_pages(changed).all(), "a write was lost"
            guest.collect_dirty(log)
            assert not log.any(), "a write was reported twice"
        guest.stop_dirty_log()
        guest.stop_dirty_log()

    def test_nothing_is_lost_between_collecting_while_it_runs(self) -> None:
        guest = self.make()
        guest.start_dirty_log()
        log, union = Bitmap(guest.layout.page_count), Bitmap(guest.layout.page_count)
        guest.collect_dirty(log)
        before = self.content(guest)
        guest.resume()
        for _ in range(10):
            self.let_work(guest)
            guest.collect_dirty(log)
            union |= log
        guest.pause()
        guest.collect_dirty(log)
        union |= log
        changed = np.flatnonzero(before != self.content(guest))
        assert union.test_pages(changed).all()

    def test_zero_pages_are_those_without_content(self) -> None:
        guest = self.make()
        guest.resume()
        self.let_work(guest)
        guest.pause()
        everything = PageRuns.of([(0, guest.layout.page_count)])
        zero = guest.zero_pages(everything)
        assert zero.any()
        assert not zero.all()
        assert (self.content(guest)[zero] == self.content(self.make(empty=True))[zero]).all()

    def test_clearing_pages(self) -> None:
        guest = self.make()
        some = PageRuns.of([(0, 3), (100, 50), (777, 1)])
        guest.resume()
        self.let_work(guest)
        guest.pause()
        guest.clear_pages(some)
        assert guest.zero_pages(some).all()
        assert not guest.zero_pages(PageRuns.of([(0, guest.layout.page_count)])).all()

    def test_a_guest_goes_on_elsewhere_with_its_memory_and_state(self) -> None:
        here, there = self.make(), self.make(empty=True)
        here.resume()
        self.let_work(here)
        here.pause()
        assert here.memory_digest() != there.memory_digest()
        self.copy_memory(here, there)
        assert here.memory_digest() == there.memory_digest()
        there.load_state(here.save_state())
        before = self.content(there)
        there.resume()
        self.let_work(there)
        there.pause()
        assert (before != self.content(there)).any()

    def test_throttling_can_be_set_and_ended_at_any_time(self) -> None:
        guest = self.make()
        guest.set_throttle(0)
        guest.resume()
        for percent in (99, 1, 99, 0):
            guest.set_throttle(percent)
        guest.set_throttle(99)
        start = time.monotonic()
        guest.pause()
        guest.set_throttle(0)
        assert time.monotonic() - start < 0.5, "pausing a throttled guest must not wait for its sleep"
