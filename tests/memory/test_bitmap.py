"""The bitmap does what a set of integers does."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmferry.memory import words as words_module
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns

ODD_SIZES = st.sampled_from([1, 2, 63, 64, 65, 127, 128, 129, 1000, 4097])
sizes_and_sets = ODD_SIZES.flatmap(
    lambda size: st.tuples(st.just(size), st.sets(st.integers(0, size - 1)), st.sets(st.integers(0, size - 1)))
)
sizes_and_runs = ODD_SIZES.flatmap(
    lambda size: st.tuples(st.just(size), st.lists(st.tuples(st.integers(0, size - 1), st.integers(0, size))))
)


def bitmap_of(size: int, pages: set[int]) -> Bitmap:
    bitmap = Bitmap(size)
    for page in pages:
        bitmap.set_range(page, 1)
    return bitmap


def pages_of(bitmap: Bitmap) -> set[int]:
    return {page for page in range(bitmap.page_count) if bitmap.test(page)}


@given(sizes_and_sets)
def test_algebra(case: tuple[int, set[int], set[int]]) -> None:
    size, left, right = case
    a, b = bitmap_of(size, left), bitmap_of(size, right)
    assert pages_of(a) == left
    assert a.count() == len(left)
    assert a.any() == bool(left)
    assert a.count_and_not(b) == len(left - right)
    assert (a == b) == (left == right)
    united, common, less, same = a.copy(), a.copy(), Bitmap(size), Bitmap(size)
    united |= b
    common &= b
    less.become_and_not(a, b)
    either = b.copy()
    either.or_and_not(a, b)
    assert pages_of(either) == left | right
    assert pages_of(a) == left
    same.copy_from(a)
    assert [pages_of(x) for x in (united, common, less, same, a)] == [
        left | right, left & right, left - right, left, left
    ]  # fmt: skip
    assert set(b.missing(a.runs()).indices().tolist()) == left - right
    assert a.test_pages(np.arange(size)).tolist() == [page in left for page in range(size)]


@given(sizes_and_runs)
def test_ranges(case: tuple[int, list[tuple[int, int]]]) -> None:
    size, runs = case
    bitmap, oracle = Bitmap(size), set()
    for number, (first, length) in enumerate(runs):
        count = min(length, size - first)
        if number % 3:
            bitmap.set_range(first, count)
            oracle |= set(range(first, first + count))
        else:
            bitmap.clear_range(first, count)
            oracle -= set(range(first, first + count))
    assert pages_of(bitmap) == oracle


@given(sizes_and_sets)
def test_runs_are_the_set(case: tuple[int, set[int], set[int]]) -> None:
    size, pages, _ = case
    runs = bitmap_of(size, pages).runs()
    assert set(runs.indices().tolist()) == pages
    assert runs.page_count == len(pages)
    ends = runs.first + runs.count
    assert (runs.first[1:] > ends[:-1]).all(), "runs are ascending and as long as they can be"
    assert len(runs) == len(runs.first)


@given(sizes_and_sets, st.lists(st.integers(0, 1 << 20)))
def test_pages_by_number_in_any_order_and_more_than_once(
    case: tuple[int, set[int], set[int]], added: list[int]
) -> None:
    size, pages, _ = case
    bitmap = bitmap_of(size, pages)
    added = [page % size for page in added]
    bitmap.set_pages(np.array(added, np.int64))
    assert pages_of(bitmap) == pages | set(added)


def test_runs_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words_module, "BLOCK_WORDS", 2)
    for first, count in ((0, 1000), (100, 300), (127, 1), (128, 128), (999, 1)):
        bitmap = Bitmap(1000)
        bitmap.set_range(first, count)
        assert list(bitmap.runs()) == [(first, count)]


@given(sizes_and_sets, st.integers(1, 200), st.integers(0, 4096))
def test_taking_all(case: tuple[int, set[int], set[int]], max_pages: int, cursor: int) -> None:
    size, pages, _ = case
    bitmap = bitmap_of(size, pages)
    taken: list[int] = []
    cursor %= size
    while len(runs := bitmap.take(cursor, max_pages)):
        batch = runs.indices().tolist()
        assert 1 <= len(batch) <= max_pages
        later = [page for page in pages - set(taken) if page >= cursor]
        assert batch == sorted(later or pages - set(taken))[: len(batch)]
        taken += batch
        cursor = (batch[-1] + 1) % size
    assert sorted(taken) == sorted(pages)
    assert not bitmap.any()


@given(st.integers(0, 3000), st.integers(1, 64))
@settings(max_examples=30)
def test_taking_from_a_sparse_set_finds_the_next_page_however_far(gap_words: int, max_pages: int) -> None:
    bitmap = Bitmap(200_000)
    far = min(gap_words * 64 + 7, 199_999)
    bitmap.set_range(far, 1)
    assert list(bitmap.take(0, max_pages)) == [(far, 1)]


def test_all_and_none() -> None:
    for size in (0, 1, 64, 65):
        bitmap = Bitmap(size)
        bitmap.set_all()
        assert bitmap.count() == size
        bitmap.clear_all()
        assert not bitmap.any()
        assert bitmap.runs() == PageRuns.of([])
        assert not len(bitmap.take(0, 5))


def test_the_layout_is_that_of_kvms_dirty_log() -> None:
    bitmap = Bitmap(130)
    bitmap.set_range(0, 1)
    bitmap.set_range(65, 1)
    bitmap.set_range(129, 1)
    assert bitmap.words.tobytes() == bytes([1, *[0] * 7, 2, *[0] * 7, 2, *[0] * 7])


@given(sizes_and_sets, st.integers(0, 7), st.booleans())
def test_sets_and_runs(case: tuple[int, set[int], set[int]], scale_bits: int, of_words: bool) -> None:
    """Near each other and far apart, given as words and as runs."""
    size, pages, others = case
    size, pages, others = size << scale_bits, *({page << scale_bits for page in some} for some in (pages, others))
    runs = bitmap_of(size, others).runs()
    runs = runs if of_words else PageRuns.of(runs)
    more, less = bitmap_of(size, pages), bitmap_of(size, pages)
    more.set_runs(runs)
    less.clear_runs(runs)
    assert set(more.runs().indices().tolist()) == pages | others
    assert set(less.runs().indices().tolist()) == pages - others
    assert bitmap_of(size, pages).test_runs(runs).tolist() == [page in pages for page in sorted(others)]


def test_runs_stay_as_they_are_when_the_set_changes() -> None:
    bitmap = bitmap_of(100, {3, 4, 99})
    runs = bitmap.runs()
    bitmap.clear_all()
    assert list(runs) == [(3, 2), (99, 1)]
