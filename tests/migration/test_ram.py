"""No page is lost, whatever the order of writes, sends and syncs; and the test can tell."""

from typing import Literal

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from vmferry.convergence.watcher import BackgroundSync
from vmferry.migration.ports import Guest
from vmferry.migration.ram import RamState
from vmferry.testing.memory_guest import MemoryGuest

PAGES = 7
Step = (
    tuple[Literal["write"], int] | tuple[Literal["take"], int] | tuple[Literal["send", "background", "iteration"], None]
)

steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, PAGES - 1)),
        st.tuples(st.just("take"), st.integers(1, 3)),
        st.sampled_from([("send", None), ("background", None), ("iteration", None)]),
    ),
    max_size=60,
)


class Model:
    """A source guest, the pages in flight, and the content that the destination has."""

    def __init__(self, ram: RamState) -> None:
        self.ram = ram
        self.guest = MemoryGuest(PAGES)
        self.guest.start_dirty_log()
        self.arrived = [-1] * PAGES
        self.in_flight: list[int] = []
        self.version = 0
        ram.iteration_sync(self.guest)

    def do(self, step: Step) -> None:
        match step:
            case ("write", page):
                self.version += 1
                self.guest.write(page, self.version)
            case ("take", max_pages):
                self.send()
                self.in_flight = list(self.ram.take(max_pages).indices())
            case ("send", _):
                self.send()
            case ("background", _):
                self.ram.background_sync(self.guest)
            case ("iteration", _):
                self.send()
                self.ram.iteration_sync(self.guest)

    def send(self) -> None:
        for page in self.in_flight:
            self.arrived[page] = self.content(page)
        self.in_flight = []

    def content(self, page: int) -> int:
        return int(self.guest.ram[page, 0])

    def lost_pages(self) -> list[int]:
        """Pages that are old at the destination and that nobody will send again."""
        ram = self.ram
        return [
            page
            for page in range(PAGES)
            if self.arrived[page] != self.content(page)
            and not self.guest.is_logged(page)
            and not ram.transfer.test(page)
            and not (page < ram._next.page_count and ram._next.test(page))
            and page not in self.in_flight
        ]

    def hand_over(self) -> None:
        self.send()
        self.ram.iteration_sync(self.guest)
        while self.ram.remaining_pages:
            self.in_flight = list(self.ram.take(3).indices())
            self.send()


def first_lost(ram: RamState, course: list[Step]) -> bool:
    model = Model(ram)
    for step in course:
        model.do(step)
        if model.lost_pages():
            return True
    model.hand_over()
    return model.arrived != [model.content(page) for page in range(PAGES)]


@pytest.mark.parametrize("mode", list(BackgroundSync))
@given(course=steps)
@settings(max_examples=400, deadline=None)
def test_no_page_is_lost(mode: BackgroundSync, course: list[Step]) -> None:
    if mode is BackgroundSync.OFF:
        course = [step for step in course if step[0] != "background"]
    assert not first_lost(RamState(PAGES, mode), course)


class ForgetsNext(RamState):
    """Broken: the next iteration does not take over what background syncs found."""

    def iteration_sync(self, guest: Guest) -> int:
        self._next.clear_all()
        return super().iteration_sync(guest)


class DropsAllThatIsNotPending(RamState):
    """Broken: drops pages that were sent before they were found dirty, not only after."""

    def _drop_sent(self) -> None:
        self._next &= self.transfer


class DropsAfterCollecting(RamState):
    """Broken: drops pages that were sent before the write that this very sync collects."""

    def background_sync(self, guest: Guest) -> int:
        newly = self._collect(guest)
        self._next |= self._log
        self._drop_sent()
        self._snapshot.copy_from(self.transfer)
        self._next_in_use = True
        return newly


class MergesByReplacing(RamState):
    """Broken: the merging background sync forgets what was pending."""

    def background_sync(self, guest: Guest) -> int:
        newly = self._collect(guest)
        self.transfer.copy_from(self._log)
        return newly


@pytest.mark.parametrize(
    ("broken", "mode"),
    [
        (ForgetsNext, BackgroundSync.PRESERVE),
        (DropsAllThatIsNotPending, BackgroundSync.PRESERVE),
        (DropsAfterCollecting, BackgroundSync.PRESERVE),
        (MergesByReplacing, BackgroundSync.MERGE),
    ],
)
def test_the_model_catches_broken_variants(broken: type[RamState], mode: BackgroundSync) -> None:
    try:
        find(
            steps,
            lambda course: first_lost(broken(PAGES, mode), course),
            settings=settings(max_examples=5000, deadline=None, database=None, derandomize=True),
        )
    except NoSuchExample:
        pytest.fail(f"{broken.__name__} loses pages and the model does not notice")


def test_counts_of_newly_dirty_pages_leave_out_what_is_pending_anyway() -> None:
    for mode in (BackgroundSync.PRESERVE, BackgroundSync.MERGE):
        model = Model(RamState(PAGES, mode))
        model.ram.take(4)  # pages 0 to 3 sent, 4 to 6 pending
        for page in (1, 2, 5):
            model.guest.write(page, 1)
        assert model.ram.background_sync(model.guest) == 2
        assert model.ram.dirty_pages == 3
        assert model.ram.background_sync(model.guest) == 0, "each period counts its own writes only"


def test_a_preserving_background_sync_does_not_lengthen_the_iteration() -> None:
    model = Model(RamState(PAGES, BackgroundSync.PRESERVE))
    model.ram.take(4)
    model.guest.write(1, 1)
    model.ram.background_sync(model.guest)
    assert model.ram.remaining_pages == 3
    assert model.ram.iteration_sync(model.guest) == 0
    assert model.ram.remaining_pages == 4


def test_a_merging_background_sync_lengthens_the_iteration() -> None:
    model = Model(RamState(PAGES, BackgroundSync.MERGE))
    model.ram.take(4)
    model.guest.write(1, 1)
    model.ram.background_sync(model.guest)
    assert model.ram.remaining_pages == 4 == model.ram.transfer.count()


def test_taking_goes_round() -> None:
    ram = RamState(PAGES, BackgroundSync.OFF)
    taken = [list(ram.take(3).indices()) for _ in range(4)]
    assert taken == [[0, 1, 2], [3, 4, 5], [6], []]
    assert ram.remaining_pages == 0
