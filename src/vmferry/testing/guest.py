"""What every implementation of the `Guest` port promises. Subclass, and say how to make one and let it work.

    class TestMyGuest(GuestContentContract[MyGuest]):
        def make(self, *, empty=False): ...

`GuestContract` is for guests that model which pages are written and hold nothing in them, `GuestContentContract` for
those that have memory.
"""

import time
from typing import Any, Generic, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from vmferry.errors import PeerError
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.migration.ports import Guest

G = TypeVar("G", bound=Guest)
Numbers = NDArray[Any]
"""One number for each page."""


class StoppedReadingError(Exception):
    """Ends a digest that is no longer wanted."""


class GuestContract(Generic[G]):
    """How a guest runs, and what its dirty log tells. A test may make several guests."""

    def make(self, *, empty: bool = False) -> G:
        """Return a paused guest of at least 1000 pages that writes some of them when it runs.

        An `empty` one has the same layout, was never run, and holds nothing: a destination before its guest comes.
        """
        raise NotImplementedError

    def content(self, guest: G) -> Numbers:
        """Return one number for each page, which changes when the page is written, and is no view of the memory."""
        raise NotImplementedError

    def let_work(self, guest: G) -> None:
        """Let the running guest write something, and return when it has."""
        raise NotImplementedError

    def let_time_pass(self) -> None:
        """Give a guest that should stand still the time to show that it does not."""
        time.sleep(0.05)

    def everything(self, guest: G) -> PageRuns:
        """Return all pages."""
        return PageRuns.of([(0, guest.layout.page_count)])

    def worked(self) -> G:
        """Return a paused guest that has written something."""
        guest = self.make()
        self.work(guest)
        return guest

    def work(self, guest: G) -> Numbers:
        """Let a paused guest write, and return the numbers of the pages that it changed."""
        before = self.content(guest)
        guest.resume()
        self.let_work(guest)
        guest.pause()
        return np.flatnonzero(before != self.content(guest))

    def dirty(self, guest: G) -> Bitmap:
        """Return what the log tells now."""
        log = Bitmap(guest.layout.page_count)
        guest.collect_dirty(log)
        return log

    def dirty_armed(self, guest: G) -> Bitmap:
        """Return what the log tells now, and arm it."""
        log = self.dirty(guest)
        guest.arm(log.runs())
        return log

    def test_the_layout_is_told_before_the_guest_runs_and_stays(self) -> None:
        guest = self.make()
        layout = guest.layout
        assert layout.page_count == sum(block.page_count for block in layout.ram_blocks) >= 1000
        assert layout.vcpu_count >= 1
        self.work(guest)
        assert guest.layout == layout == self.make(empty=True).layout

    def test_a_paused_guest_writes_nothing(self) -> None:
        guest = self.make()
        for _ in range(3):
            assert len(self.work(guest))
            before = self.content(guest)
            self.let_time_pass()
            assert np.array_equal(before, self.content(guest))

    def test_pausing_and_resuming_twice_is_as_good_as_once(self) -> None:
        guest = self.make()
        for act, runs in ((guest.pause, False), (guest.resume, True), (guest.resume, True), (guest.pause, False)):
            act()
            assert guest.running is runs
        assert len(self.work(guest))

    def touched(self, guest: G) -> Bitmap:
        """Return the pages that are told to have been touched."""
        touched = Bitmap(guest.layout.page_count)
        touched.set_range(0, 100)  # what is in it does not matter
        guest.find_touched(touched)
        return touched

    def test_what_was_written_is_touched(self) -> None:
        guest = self.make()
        for _ in range(2):
            changed = self.work(guest)
            assert self.touched(guest).test_pages(changed).all()

    def test_what_is_touched_later_is_in_the_log(self) -> None:
        guest = self.make()
        guest.start_dirty_log()
        known = self.touched(guest)
        changed = self.work(guest)
        known |= self.dirty(guest)
        assert known.test_pages(changed).all()

    def test_the_dirty_log_finds_every_page_written_until_it_is_armed(self) -> None:
        guest = self.worked()
        guest.start_dirty_log()
        self.dirty_armed(guest)
        for _ in range(3):
            changed = self.work(guest)
            assert len(changed)
            for _ in range(2):
                assert self.dirty(guest).test_pages(changed).all(), "a write was lost"
            assert self.dirty_armed(guest).test_pages(changed).all(), "a write was lost"
            assert not self.dirty(guest).any(), "a write was reported after its page was armed"
        guest.stop_dirty_log()
        guest.stop_dirty_log()

    def test_arming_some_pages_leaves_the_others_in_the_log(self) -> None:
        guest = self.make()
        guest.start_dirty_log()
        changed = self.work(guest)
        log = self.dirty(guest)
        for some, others in ((changed[::2], changed[1::2]), (changed[1::2], changed[:0])):
            guest.arm(PageRuns.from_indices(some))
            log.clear_runs(PageRuns.from_indices(some))
            assert self.dirty(guest) == log, "arming a page must not change what is told of others"
            assert log.test_pages(others).all()
        guest.arm(PageRuns.of([]))

    def test_pages_that_are_armed_unwritten_are_logged(self) -> None:
        guest = self.make()
        guest.start_dirty_log()
        guest.arm(self.everything(guest))
        changed = self.work(guest)
        assert self.dirty(guest).test_pages(changed).all()

    def test_a_page_can_be_armed_again_and_again(self) -> None:
        guest = self.make()
        guest.start_dirty_log()
        for _ in range(3):
            changed = self.work(guest)
            log = self.dirty(guest)
            assert log.test_pages(changed).all()
            for _ in range(2):
                guest.arm(log.runs())
            assert not self.dirty(guest).any()

    def test_what_is_written_from_the_start_of_the_log_on_is_in_its_first_answer(self) -> None:
        guest = self.make()
        guest.start_dirty_log()
        changed = self.work(guest)
        assert self.dirty(guest).test_pages(changed).all()

    def test_the_log_can_be_started_again(self) -> None:
        guest = self.make()
        guest.start_dirty_log()
        self.work(guest)
        guest.stop_dirty_log()
        self.work(guest)
        guest.start_dirty_log()
        self.dirty_armed(guest)
        changed = self.work(guest)
        assert self.dirty_armed(guest).test_pages(changed).all()
        assert not self.dirty(guest).any()

    def test_what_was_in_the_bitmap_is_overwritten(self) -> None:
        guest = self.worked()
        guest.start_dirty_log()
        self.dirty_armed(guest)
        full = Bitmap(guest.layout.page_count)
        full.set_all()
        guest.collect_dirty(full)
        assert not full.any()

    def test_nothing_is_lost_between_arming_while_it_runs(self) -> None:
        guest = self.make()
        guest.start_dirty_log()
        union = self.dirty_armed(guest)
        union.clear_all()
        before = self.content(guest)
        guest.resume()
        for _ in range(10):
            self.let_work(guest)
            union |= self.dirty_armed(guest)
        guest.pause()
        union |= self.dirty(guest)
        changed = np.flatnonzero(before != self.content(guest))
        assert len(changed)
        assert union.test_pages(changed).all()

    def test_throttling_can_be_set_and_ended_at_any_time(self) -> None:
        guest = self.make()
        guest.set_throttle(0)
        guest.set_throttle(50)
        assert not guest.running, "throttling a paused guest must not let it run"
        guest.resume()
        for percent in (99, 1, 99, 0):
            guest.set_throttle(percent)
            assert guest.running, "a throttled guest runs"
        self.let_work(guest)
        guest.set_throttle(99)
        pauses_s = [self._pause_and_resume_s(guest) for _ in range(5)]  # some may take long for other reasons
        assert min(pauses_s) < 0.5, "pausing a throttled guest must not wait for its sleep"
        guest.pause()
        guest.set_throttle(0)
        assert len(self.work(guest))

    def _pause_and_resume_s(self, guest: G) -> float:
        start_s = time.monotonic()
        guest.pause()
        duration_s = time.monotonic() - start_s
        guest.resume()
        return duration_s

    def test_its_state_is_taken_by_another(self) -> None:
        here, there = self.worked(), self.make(empty=True)
        state = here.save_state()
        assert not here.running
        there.load_state(here.save_state())
        assert not there.running, "only the engine lets a guest run"
        assert len(self.work(here)), "saving the state changed the guest"
        assert state

    def test_a_state_that_is_none_is_refused(self) -> None:
        state = self.worked().save_state()
        there = self.make(empty=True)
        for broken in (b"", state[: len(state) // 2], b"x" + state, bytes(len(state))):
            with pytest.raises(PeerError):
                there.load_state(broken)
        there.load_state(state)


class GuestContentContract(GuestContract[G]):
    """The same, and what is promised about the bytes of a guest that has some."""

    def copy_memory(self, source: G, target: G) -> None:
        """Copy all RAM from one paused guest to another."""
        raise NotImplementedError

    def test_what_is_not_touched_is_zero(self) -> None:
        guest = self.worked()
        untouched = ~self.touched(guest).test_runs(self.everything(guest))
        assert guest.zero_pages(self.everything(guest))[untouched].all()

    def test_zero_pages_are_those_without_content(self) -> None:
        guest, empty = self.worked(), self.make(empty=True)
        zero = guest.zero_pages(self.everything(guest))
        assert 0 < np.count_nonzero(zero) < len(zero) == guest.layout.page_count
        assert (self.content(guest)[zero] == self.content(empty)[zero]).all()
        assert empty.zero_pages(self.everything(empty)).all()

    def test_zero_pages_are_told_in_the_order_of_what_was_asked(self) -> None:
        guest = self.worked()
        zero = guest.zero_pages(self.everything(guest))
        some = PageRuns.of([(3, 1), (10, 200), (900, 7)])
        assert np.array_equal(guest.zero_pages(some), zero[some.indices()])
        assert len(guest.zero_pages(PageRuns.of([]))) == 0

    def test_clearing_pages_leaves_the_others(self) -> None:
        guest = self.worked()
        some = PageRuns.of([(0, 3), (100, 50), (777, 1)])
        before = self.content(guest)
        guest.clear_pages(some)
        guest.clear_pages(PageRuns.of([]))
        assert guest.zero_pages(some).all()
        others = np.setdiff1d(np.arange(guest.layout.page_count), some.indices())
        assert np.array_equal(before[others], self.content(guest)[others])
        assert not guest.zero_pages(self.everything(guest)).all()

    def test_a_guest_goes_on_elsewhere_with_its_memory_and_state(self) -> None:
        here, there = self.worked(), self.make(empty=True)
        assert here.memory_digest() != there.memory_digest()
        self.copy_memory(here, there)
        assert here.memory_digest() == there.memory_digest()
        there.load_state(here.save_state())
        assert len(self.work(there))
        assert here.memory_digest() != there.memory_digest()

    def test_a_digest_of_the_first_pages_knows_nothing_of_the_others(self) -> None:
        here, there = self.worked(), self.make(empty=True)
        self.copy_memory(here, there)
        page_count = here.layout.page_count
        first = page_count // 8  # a guest that has only begun has not come far
        there.clear_pages(PageRuns.of([(first, page_count - first)]))
        assert here.memory_digest(first) == there.memory_digest(first)
        assert here.memory_digest(page_count) == here.memory_digest() != there.memory_digest()

    def test_a_digest_can_be_ended_while_it_reads(self) -> None:
        guest = self.worked()

        def stop() -> None:
            raise StoppedReadingError

        with pytest.raises(StoppedReadingError):
            guest.memory_digest(while_reading=stop)
        assert guest.memory_digest() == guest.memory_digest(while_reading=lambda: None)
