"""No page is lost, whatever the order of writes, sends and syncs, and each write counts once; and the test can tell."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from vmferry.convergence.watcher import BackgroundSync
from vmferry.memory.ranges import PageRuns
from vmferry.migration.early_pages import EarlyPages
from vmferry.migration.ram import RamState
from vmferry.settings.choices import Rearm
from vmferry.testing.memory_guest import MemoryGuest

PAGES = 130
EARLY_RUN = 1
"""Of the model's runs of 64 pages, this one is armed at syncs; the others are armed when they are taken."""
WRITTEN = [0, 1, 2, 63, 64, 65, 129]
"""The pages that the model's guest writes: some of each run."""
Step = (
    tuple[Literal["write"], int] | tuple[Literal["take"], int] | tuple[Literal["send", "background", "iteration"], None]
)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(WRITTEN)),
        st.tuples(st.just("take"), st.sampled_from([1, 2, 64, PAGES])),
        st.sampled_from([("send", None), ("background", None), ("iteration", None)]),
    ),
    max_size=60,
)


class Model:
    """A source guest, the pages in flight, and the content that the destination has."""

    def __init__(self, kind: type[RamState], mode: BackgroundSync, early: EarlyPages | None = None) -> None:
        self.guest = MemoryGuest(PAGES)
        self.guest.ram[:, 0] = 1
        self.guest.start_dirty_log()
        self.early = early or EarlyPages(PAGES, np.array([EARLY_RUN]))
        self.ram = kind(self.guest, mode, self.early)
        self.arrived = np.full(PAGES, -1)
        self.in_flight: list[int] = []
        self.version = 1
        self.counts = set[int]()
        """What was written since the last sync, and after it was taken if it was, but for early pages."""
        self.ram.iteration_sync()

    def do(self, step: Step) -> None:
        match step:
            case ("write", page):
                self.version += 1
                self.guest.write(page, self.version)
                self.counts.add(page)
            case ("take", max_pages):
                self.send()
                self.take(max_pages)
            case ("send", _):
                self.send()
            case ("background", _):
                self.count(self.expected(), self.ram.background_sync())
            case ("iteration", _):
                self.send()
                self.count(self.expected(), self.ram.iteration_sync())

    def take(self, max_pages: int) -> None:
        self.in_flight = self.ram.take(max_pages).indices().tolist()
        self.counts -= {page for page in self.in_flight if not self.early.pages.test(page)}

    def send(self) -> None:
        self.arrived[self.in_flight] = self.content[self.in_flight]
        self.in_flight = []

    def expected(self) -> int:
        return sum(not self.ram.transfer.test(page) for page in self.counts)

    def count(self, expected: int, found: int) -> None:
        if expected != found:
            raise MiscountedError
        self.counts.clear()

    @property
    def content(self) -> np.ndarray:
        return self.guest.ram[:, 0].astype(np.int64)

    def lost_pages(self) -> list[int]:
        """Pages that are old at the destination and that nobody will send again."""
        ram = self.ram
        return [
            page
            for page in np.flatnonzero(self.arrived != self.content).tolist()
            if not self.guest.is_logged(page)
            and not ram.transfer.test(page)
            and not (page < ram._next.page_count and ram._next.test(page))
            and page not in self.in_flight
        ]

    def hand_over(self) -> None:
        self.send()
        self.ram.last_sync()
        while self.ram.remaining_pages:
            self.take(64)
            self.send()


class MiscountedError(Exception):
    """A sync has counted other pages as newly dirty than were written in its period."""


def goes_wrong(model: Model, course: list[Step]) -> bool:
    try:
        for step in course:
            model.do(step)
            if model.lost_pages():
                return True
    except MiscountedError:
        return True
    model.hand_over()
    return bool((model.arrived != model.content).any())


@pytest.mark.parametrize("all_early", [False, True])
@pytest.mark.parametrize("mode", list(BackgroundSync))
@given(course=steps)
@settings(max_examples=200, deadline=None)
def test_no_page_is_lost_and_no_write_counts_twice(all_early: bool, mode: BackgroundSync, course: list[Step]) -> None:
    if mode is BackgroundSync.OFF:
        course = [step for step in course if step[0] != "background"]
    early = EarlyPages.of(PAGES, Rearm.EARLY) if all_early else None
    assert not goes_wrong(Model(RamState, mode, early), course)


class ForgetsNext(RamState):
    """Broken: the next iteration does not take over what background syncs found."""

    def iteration_sync(self) -> int:
        self._next.clear_all()
        return super().iteration_sync()


class MergesByReplacing(RamState):
    """Broken: the merging background sync forgets what was pending."""

    def background_sync(self) -> int:
        newly_dirty_pages = self._collect()
        self.transfer.copy_from(self._log)
        return newly_dirty_pages


class ArmsAfterReading(RamState):
    """Broken: what is written between reading and arming is not in the log."""

    taken: PageRuns | None = None

    def take(self, max_pages: int) -> PageRuns:
        if self.taken:
            super()._arm_taken(self.taken)
        return super().take(max_pages)

    def _arm_taken(self, pages: PageRuns) -> None:
        self.taken = pages


class DropsWhatWasSent(RamState):
    """Broken: arms all at the sync, and takes what was written since and sent for written before it was sent."""

    def __init__(self, guest: MemoryGuest, mode: BackgroundSync, early: EarlyPages) -> None:
        super().__init__(guest, mode, EarlyPages.of(PAGES, Rearm.EARLY))
        self.sent = self.transfer.copy()
        self.sent.clear_all()

    def take(self, max_pages: int) -> PageRuns:
        pages = super().take(max_pages)
        self.sent.set_runs(pages)
        return pages

    def _collect(self) -> int:
        self._guest.collect_dirty(self._log)
        self._guest.arm(self._log.runs())
        self._log.become_and_not(self._log, self.sent)
        self.sent.clear_all()
        return self._log.count_and_not(self.transfer)


class ArmsNothingAtBackgroundSyncs(RamState):
    """Broken: what waits for the next iteration is not armed, so the next sync counts it again."""

    def background_sync(self) -> int:
        newly_dirty_pages = self._collect()
        self._next.or_and_not(self._log, self.transfer)
        self.again_pages = self._next.count()
        return newly_dirty_pages


class ArmsWholeRuns(RamState):
    """Broken: arms the runs of 64 that the pages lie in, so others are forgotten."""

    def _arm_taken(self, pages: PageRuns) -> None:
        first = pages.indices()[0] // 64 * 64
        self._guest.arm(PageRuns.of([(first, min(PAGES, pages.last_page // 64 * 64 + 64) - first)]))


class ArmsEarlyPagesOnly(RamState):
    """Broken: the others are never armed, so they are sent and counted again and again."""

    def _arm_taken(self, pages: PageRuns) -> None:
        pass


@pytest.mark.parametrize(
    ("broken", "mode"),
    [
        (ForgetsNext, BackgroundSync.PRESERVE),
        (MergesByReplacing, BackgroundSync.MERGE),
        (ArmsAfterReading, BackgroundSync.PRESERVE),
        (DropsWhatWasSent, BackgroundSync.MERGE),
        (ArmsNothingAtBackgroundSyncs, BackgroundSync.PRESERVE),
        (ArmsWholeRuns, BackgroundSync.PRESERVE),
        (ArmsEarlyPagesOnly, BackgroundSync.OFF),
    ],
)
def test_the_model_catches_broken_variants(broken: type[RamState], mode: BackgroundSync) -> None:
    try:
        find(
            steps,
            lambda course: goes_wrong(Model(broken, mode), course),
            settings=settings(
                max_examples=5000, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
            ),
        )
    except NoSuchExample:
        pytest.fail(f"{broken.__name__} goes wrong and the model does not notice")


def model_of(mode: BackgroundSync) -> Model:
    """Return one in which pages 0 to 3 were sent and the others wait."""
    model = Model(RamState, mode)
    model.take(4)
    model.send()
    return model


def test_counts_of_newly_dirty_pages_leave_out_what_is_pending_anyway() -> None:
    for mode in (BackgroundSync.PRESERVE, BackgroundSync.MERGE):
        model = model_of(mode)
        for page in (1, 2, 65):
            model.guest.write(page, 2)
        assert model.ram.background_sync() == 2
        assert model.ram.background_sync() == 0, "each period counts its own writes only"


def test_a_page_that_is_written_while_it_waits_is_sent_once() -> None:
    model = model_of(BackgroundSync.OFF)
    for page in (4, 129):
        model.guest.write(page, 2)
    model.take(PAGES)
    model.send()
    assert model.ram.iteration_sync() == model.ram.remaining_pages == 0


def test_an_early_page_that_is_written_while_it_waits_is_sent_twice() -> None:
    model = model_of(BackgroundSync.OFF)
    model.guest.write(65, 2)
    model.take(PAGES)
    model.send()
    assert model.ram.iteration_sync() == model.ram.remaining_pages == 1


def test_a_preserving_background_sync_does_not_lengthen_the_iteration() -> None:
    model = model_of(BackgroundSync.PRESERVE)
    model.guest.write(1, 2)
    model.ram.background_sync()
    assert model.ram.again_pages == 1
    assert model.ram.remaining_pages == PAGES - 4
    assert model.ram.iteration_sync() == 0
    assert model.ram.remaining_pages == PAGES - 3


def test_a_merging_background_sync_lengthens_the_iteration() -> None:
    model = model_of(BackgroundSync.MERGE)
    model.guest.write(1, 2)
    model.ram.background_sync()
    assert model.ram.remaining_pages == PAGES - 3 == model.ram.transfer.count()


def test_nothing_is_armed_of_a_guest_that_stands_still() -> None:
    model = model_of(BackgroundSync.OFF)
    for page in (1, 65):
        model.guest.write(page, 2)
    model.ram.last_sync()
    model.take(PAGES)
    assert model.guest.is_logged(1)
    assert model.guest.is_logged(65)


def test_taking_goes_round() -> None:
    ram = Model(RamState, BackgroundSync.OFF).ram
    taken = [ram.take(60) for _ in range(4)]
    assert [list(pages) for pages in taken] == [[(0, 60)], [(60, 60)], [(120, 10)], []]
    assert ram.remaining_pages == 0


def test_what_was_never_touched_does_not_wait_until_it_is_written() -> None:
    guest = MemoryGuest(PAGES)
    guest.write(7, 1)
    guest.start_dirty_log()
    ram = RamState(guest, BackgroundSync.OFF, EarlyPages.of(PAGES, Rearm.LATE))
    assert list(ram.transfer.runs()) == [(7, 1)]
    assert ram.remaining_pages == 1
    guest.write(100, 1)
    assert ram.iteration_sync() == 1
    assert list(ram.transfer.runs()) == [(7, 1), (100, 1)]
