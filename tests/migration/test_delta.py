"""Sending only what changed: the cache holds what the destination has, whatever happens; and the test can tell."""

from typing import Literal

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from tests.support.loopback import Pair, Writer
from vmferry.convergence.watcher import BackgroundSync
from vmferry.errors import PeerError, UsageError
from vmferry.experiment.scenario import seed_scenarios
from vmferry.memory.delta import apply_delta
from vmferry.memory.layout import GuestLayout, RamBlock
from vmferry.memory.page_cache import PageCache
from vmferry.memory.ranges import EMPTY, PageRuns
from vmferry.migration.delta import OVERHEAD_BYTES, DeltaFigures, Deltas
from vmferry.migration.early_pages import EarlyPages
from vmferry.migration.handshake import Credentials
from vmferry.migration.ram import RamState
from vmferry.migration.status import MigrationStatus
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.choices import Rearm
from vmferry.settings.parameters import MigrationParameters
from vmferry.simulation.run import Simulation
from vmferry.testing.memory_guest import WORDS_PER_PAGE, MemoryGuest
from vmferry.wire.encoder import Encoder
from vmferry.wire.format import NONCE_BYTES, Feature
from vmferry.wire.messages import Challenge, Hello, Message, Pages

PAGES = 10
PAGE_SIZE = 4096
SLOTS = 4
Step = tuple[Literal["word", "whole", "zero", "send"], int] | tuple[Literal["background", "iteration"], None]

pages = st.integers(0, PAGES - 1)
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["word", "whole", "zero"]), pages),
        st.tuples(st.just("send"), st.sampled_from([1, 3, PAGES])),
        st.sampled_from([("background", None), ("iteration", None), ("iteration", None)]),
    ),
    max_size=60,
)


class RestlessGuest(MemoryGuest):
    """Its vCPU writes to pages just after they were read."""

    def __init__(self) -> None:
        super().__init__(PAGES)
        self.ram[:] = np.random.default_rng(1).integers(1, 9, self.ram.shape)
        self.writes = 0

    def view(self, first_page: int, page_count: int) -> memoryview:
        seen = self.ram[first_page : first_page + page_count].copy()
        for page in range(first_page, first_page + page_count) if self.running else ():
            self.change(page, 3)
        return seen.data.cast("B")

    def change(self, page: int, word: int | slice) -> None:
        self.writes += 1
        self.ram[page, word] = self.writes
        self._log.set_range(page, 1)

    def clear(self, page: int) -> None:
        self.ram[page] = 0
        self._log.set_range(page, 1)


class Model:
    """A migration of a restless guest, and the memory of its destination."""

    def __init__(self, kind: type[Deltas], mode: BackgroundSync, rearm: Rearm) -> None:
        self.guest = RestlessGuest()
        self.there = MemoryGuest(PAGES)
        self.guest.start_dirty_log()
        early = EarlyPages.of(PAGES, rearm) if rearm is Rearm.EARLY else EarlyPages(PAGES, np.array([], np.int64))
        self.ram = RamState(self.guest, mode, early)
        self.deltas = kind(self.guest, lambda: SLOTS * PAGE_SIZE)
        self.iteration_count = 0
        self.begin()

    def do(self, step: Step) -> None:
        match step:
            case ("word", page):
                self.guest.change(page, page)
            case ("whole", page):
                self.guest.change(page, slice(None))
            case ("zero", page):
                self.guest.clear(page)
            case ("send", max_pages):
                self.send(max_pages)
            case ("background", _):
                self.ram.background_sync()
            case ("iteration", _):
                while self.ram.remaining_pages:
                    self.send(PAGES)
                self.begin()

    def begin(self) -> None:
        self.ram.iteration_sync()
        self.iteration_count += 1

    def send(self, max_pages: int, *, final: bool = False) -> None:
        taken = self.ram.take(max_pages)
        data, zero = taken.split(self.guest.zero_pages(taken))
        for message in self.deltas.messages(data, zero, self.iteration_count, final=final):
            self.deliver(message)

    def deliver(self, message: Pages) -> None:
        assert len(message.content or b"") in (0, message.packed_bytes or message.data.page_count * PAGE_SIZE)
        views = [self.there.view(first, count) for first, count in message.data]
        if message.is_delta:
            assert message.content is not None
            assert message.packed_bytes + OVERHEAD_BYTES * message.data.page_count <= sum(map(len, views))
            apply_delta(message.content, views, PAGE_SIZE)
        else:
            content = b"".join(self.guest.view(*run) for run in message.data)
            content = content if message.content is None else bytes(message.content)
            self.there.ram[message.data.indices()] = np.frombuffer(content, np.uint64).reshape(-1, WORDS_PER_PAGE)
        self.there.clear_pages(message.zero)

    def hand_over(self) -> None:
        self.guest.pause()
        self.ram.last_sync()
        while self.ram.remaining_pages:
            self.send(3, final=True)

    def cache_is_wrong(self) -> bool:
        cache: PageCache = self.deltas._cache
        held = np.flatnonzero(cache.holds(np.arange(PAGES)))
        return bool((cache.content(held) != self.there.ram[held]).any())


def goes_wrong(model: Model, course: list[Step]) -> bool:
    for step in course:
        model.do(step)
        if model.cache_is_wrong():
            return True
    model.hand_over()
    return bool((model.there.ram != model.guest.ram).any())


@pytest.mark.parametrize("rearm", list(Rearm))
@pytest.mark.parametrize("mode", list(BackgroundSync))
@given(course=steps)
@settings(max_examples=100, deadline=None)
def test_the_cache_holds_what_the_destination_has(rearm: Rearm, mode: BackgroundSync, course: list[Step]) -> None:
    assert not goes_wrong(Model(Deltas, mode, rearm), course)


class ReadsAgain(Deltas):
    """Broken: what is cached was not read together with what is sent."""

    def messages(self, data: PageRuns, zero: PageRuns, iteration_count: int, *, final: bool) -> list[Pages]:
        messages = super().messages(data, zero, iteration_count, final=final)
        if iteration_count > 1:
            self._cache.store(data.indices(), self._read(data))
        return messages


class ForgetsZeroPages(Deltas):
    """Broken: the cache is not told of pages that become zero."""

    def messages(self, data: PageRuns, zero: PageRuns, iteration_count: int, *, final: bool) -> list[Pages]:
        return [*super().messages(data, EMPTY, iteration_count, final=final), Pages(EMPTY, zero, final)]


class ForgetsWholePages(Deltas):
    """Broken: the cache is not told of pages that it knows and that are sent whole."""

    def messages(self, data: PageRuns, zero: PageRuns, iteration_count: int, *, final: bool) -> list[Pages]:
        indices = data.indices()
        known = indices[self._cache.holds(indices)]
        before = self._cache.content(known)
        messages = super().messages(data, zero, iteration_count, final=final)
        whole = np.isin(known, [page for m in messages if not m.is_delta for page in m.data.indices()])
        self._cache.store(known[whole], before[whole])
        return messages


@pytest.mark.parametrize("broken", [ReadsAgain, ForgetsZeroPages, ForgetsWholePages])
def test_the_model_catches(broken: type[Deltas]) -> None:
    try:
        find(
            steps,
            lambda course: goes_wrong(Model(broken, BackgroundSync.PRESERVE, Rearm.LATE), course),
            settings=settings(
                max_examples=3000, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
            ),
        )
    except NoSuchExample:
        pytest.fail(f"{broken.__name__} goes wrong and the model does not notice")


def busy_pair(bytes_per_s: int = 4 << 20, until_s: int = 5, **options: object) -> Pair:
    """A guest that changes one word of each of 40 pages round and round, faster than the link carries pages."""
    pair = Pair(256, bytes_per_s=bytes_per_s, downtime_limit=10, **options)  # type: ignore[arg-type]
    pair.here.ram[:, 1:] = np.random.default_rng(1).integers(1, 1 << 60, (256, WORDS_PER_PAGE - 1))
    writer = Writer(pair, page_count=40, pages_per_s=1500)

    def work(message: Message) -> None:
        if pair.clock.now_ns() < until_s * 10**9:
            writer.work(message)

    pair.channel.before_send = work
    return pair


def test_a_guest_that_changes_a_word_per_page_arrives_with_fewer_bytes() -> None:
    sent_bytes = {}
    for xbzrle in (False, True):
        pair = busy_pair(xbzrle=xbzrle)
        assert pair.source.run() is MigrationStatus.COMPLETED
        assert np.array_equal(pair.here.ram, pair.there.ram)
        info = pair.source.info()
        assert info.ram
        sent_bytes[xbzrle] = info.ram.transferred
        assert (info.xbzrle_cache is not None) is xbzrle
    assert sent_bytes[True] < sent_bytes[False] / 2


def test_what_was_done_is_counted() -> None:
    pair = busy_pair(xbzrle=True)
    pair.source.run()
    info = pair.source.info()
    figures, ram = info.xbzrle_cache, info.ram
    assert figures
    assert ram
    messages = [message for message in pair.channel.messages if isinstance(message, Pages)]
    deltas = [message for message in messages if message.is_delta]
    assert deltas
    assert figures.pages == sum(message.data.page_count for message in deltas) + figures.overflow
    assert figures.bytes == sum(message.packed_bytes for message in deltas) + figures.overflow * PAGE_SIZE
    assert figures.cache_miss == 40, "each page that is written is new to the cache once"
    assert figures.overflow == 0
    assert ram.normal == sum(message.data.page_count for message in messages if not message.is_delta)
    assert figures.cache_size == MigrationParameters().xbzrle_cache_size
    assert figures.cache_miss_rate == 0
    assert 100 < figures.encoding_rate <= PAGE_SIZE / 2


def test_pages_of_new_content_overflow_and_go_whole() -> None:
    guest = RestlessGuest()
    guest.pause()
    deltas = Deltas(guest, lambda: SLOTS * PAGE_SIZE)
    everything = PageRuns.of([(0, 4)])
    assert [m.content for m in deltas.messages(everything, EMPTY, 1, final=False)] == [None]
    deltas.messages(everything, EMPTY, 2, final=False)
    guest.ram[:] += np.uint64(1)
    (message,) = deltas.messages(everything, EMPTY, 3, final=True)
    assert not message.is_delta
    assert message.final
    assert message.content == guest.ram[:4].tobytes()
    assert deltas.figures == DeltaFigures(
        cache_size=SLOTS * PAGE_SIZE, bytes=4 * PAGE_SIZE, pages=4, cache_miss=4, encoding_rate=1.0, overflow=4
    )


def test_a_frame_of_its_own_never_makes_a_page_larger() -> None:
    """A delta is only made if it saves what its frame and its runs may take."""
    whole = Pages(PageRuns.of([(0, 9)]), EMPTY)
    size = len(Encoder().encode(whole)) + 9 * PAGE_SIZE
    deltas = [page for page in range(9) if page % 2]
    packed_bytes = len(deltas) * (PAGE_SIZE - OVERHEAD_BYTES)
    split = [
        Pages(PageRuns.of([(page, 1) for page in range(0, 9, 2)]), EMPTY),
        Pages(PageRuns.of([(page, 1) for page in deltas]), EMPTY, packed_bytes=packed_bytes, is_delta=True),
    ]
    frames = sum(len(Encoder().encode(message)) for message in split)
    assert frames + 5 * PAGE_SIZE + packed_bytes <= size


def test_a_cache_whose_size_is_changed_begins_empty() -> None:
    guest, size_bytes = RestlessGuest(), [SLOTS * PAGE_SIZE]
    guest.pause()
    deltas = Deltas(guest, lambda: size_bytes[0])
    everything = PageRuns.of([(0, PAGES)])

    def is_delta(iteration_count: int) -> list[bool]:
        return [message.is_delta for message in deltas.messages(everything, EMPTY, iteration_count, final=False)]

    assert is_delta(2) == [False]
    assert is_delta(3) == [False, True]
    size_bytes[0] = 1 << 60
    assert is_delta(4) == [False]
    assert is_delta(5) == [True]
    assert deltas.figures.cache_size == 1 << 60


def test_deltas_that_were_not_agreed_on_are_refused() -> None:
    pair, source = Pair(), Credentials(bytes(NONCE_BYTES))
    challenge = pair.destination.handle(Hello(pair.here.layout, source.nonce, Feature.ZSTD))
    assert isinstance(challenge, Challenge)
    pair.destination.handle(source.answer(challenge, Feature.ZSTD))
    with pytest.raises(PeerError, match="deltas of pages, which were not agreed on"):
        pair.destination.handle(Pages(PageRuns.of([(0, 1)]), EMPTY, packed_bytes=2, is_delta=True))
    pair.destination.handle(Pages(PageRuns.of([(0, 1)]), EMPTY, packed_bytes=2))


def test_a_guest_whose_pages_have_no_content_is_refused() -> None:
    with pytest.raises(UsageError, match="xbzrle: the content of this guest's pages cannot be read"):
        Simulation(next(seed_scenarios()), "original", 0, capabilities=MigrationCapabilities(xbzrle=True))


def test_a_cache_that_memory_cannot_hold_is_refused_in_one_line() -> None:
    guest = MemoryGuest(PAGES)
    guest.layout = GuestLayout((RamBlock("pc.ram", 1 << 50),), 1)
    with pytest.raises(UsageError, match=r"xbzrle-cache-size: this host has no memory for .*; set less"):
        Deltas(guest, lambda: 1 << 62)


def test_pages_go_over_one_connection_as_in_qemu() -> None:
    nothing = MigrationCapabilities()
    for states in ({"xbzrle": True, "multifd": True}, {"multifd": True}):
        with pytest.raises(UsageError, match=r"^Multifd is not compatible with xbzrle$"):
            nothing.changed({"xbzrle": True}).changed(states)
    assert nothing.changed({"xbzrle": True}).changed({"xbzrle": False, "multifd": True}).multifd
