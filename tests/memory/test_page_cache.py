"""The cache does what a naive one does that looks at one page after the other."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vmferry.memory.page_cache import PageCache

PAGES = 24


class NaiveCache:
    def __init__(self, slot_count: int) -> None:
        self.slots: list[tuple[int, int, int] | None] = [None] * slot_count
        """Page, round and content of each."""
        self.round = 0

    def holds(self, page: int) -> bool:
        there = self.slots[page % len(self.slots)]
        return there is not None and there[0] == page

    def content(self, page: int) -> int:
        there = self.slots[page % len(self.slots)]
        assert there
        return there[2]

    def store(self, pages: list[int], contents: list[int]) -> None:
        here = [self.holds(page) for page in pages]
        for is_here in (True, False):
            for page, content, was in zip(pages, contents, here, strict=True):
                there = self.slots[page % len(self.slots)]
                if was is is_here and (was or there is None or there[1] + 2 <= self.round):
                    self.slots[page % len(self.slots)] = (page, self.round, content)


batches = st.lists(
    st.tuples(st.sets(st.integers(0, PAGES - 1)), st.booleans(), st.sampled_from([0, 0, 1, 3])), max_size=20
)


@given(st.sampled_from([1, 2, 4, 8, 32]), batches)
def test_it_is_a_naive_one(slot_count: int, batches: list[tuple[set[int], bool, int]]) -> None:
    cache, naive = PageCache(slot_count, 2), NaiveCache(slot_count)
    for number, (chosen, is_zero, rounds) in enumerate(batches, 1):
        cache.round += rounds
        naive.round += rounds
        pages = sorted(chosen)
        contents = [0 if is_zero else 1000 * number + page for page in pages]
        rows = np.zeros((1, 2), np.uint64) if is_zero else np.array(contents, np.uint64)[:, None].repeat(2, 1)
        cache.store(np.array(pages, np.int64), rows)
        naive.store(pages, contents)
        everything = np.arange(PAGES)
        held = cache.holds(everything)
        assert held.tolist() == [naive.holds(page) for page in range(PAGES)]
        content = cache.content(everything[held])
        assert content.tolist() == [[naive.content(page)] * 2 for page in np.flatnonzero(held).tolist()]


def test_of_pages_that_would_drive_each_other_out_one_stays() -> None:
    cache = PageCache(4, 1)
    pages = np.arange(8)
    found = []
    for round_number in range(1, 6):
        cache.round = round_number
        found.append(int(cache.holds(pages).sum()))
        cache.store(pages, np.zeros((8, 1), np.uint64))
    assert found == [0, 4, 4, 4, 4]


def test_who_is_sent_no_more_makes_room() -> None:
    cache = PageCache(4, 1)
    old, new = np.arange(4), np.arange(4, 8)
    for round_number, pages in enumerate([old, new, new, new], 1):
        cache.round = round_number
        cache.store(pages, np.zeros((4, 1), np.uint64))
    assert cache.holds(new).all()
