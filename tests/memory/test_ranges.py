"""Runs of pages."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vmferry.memory.ranges import EMPTY, PageRuns

page_sets = st.sets(st.integers(0, 300))


def runs_of(pages: set[int]) -> PageRuns:
    return PageRuns.from_indices(np.array(sorted(pages), np.int64))


def words_of(pages: set[int], first_word: int, word_count: int) -> PageRuns:
    """The same as words of a bitmap."""
    words = [sum(1 << page % 64 for page in pages if page // 64 == first_word + word) for word in range(word_count)]
    return PageRuns.of_words(first_word, np.array(words, np.uint64))


@given(page_sets)
def test_indices_and_back(pages: set[int]) -> None:
    runs = runs_of(pages)
    assert runs.indices().tolist() == sorted(pages)
    assert runs.page_count == len(pages)
    assert PageRuns.of(list(runs)) == runs


@given(page_sets, st.integers(0, 5), st.integers(0, 2))
def test_words_of_a_bitmap_are_the_same_pages(pages: set[int], first_word: int, more_words: int) -> None:
    pages = {first_word * 64 + page for page in pages}
    as_runs, as_words = runs_of(pages), words_of(pages, first_word, 5 + more_words)
    assert (len(as_words), bool(as_words)) == (len(as_runs), bool(pages))
    assert as_words.page_count == len(pages)
    assert as_words.indices().tolist() == sorted(pages)
    assert as_words == as_runs
    assert PageRuns.of_words(as_runs.place.start, as_runs.words) == as_words
    if pages:
        assert (as_words.first_page, as_words.last_page) == (min(pages), max(pages))
        assert (as_runs.first_page, as_runs.last_page) == (min(pages), max(pages))


@given(page_sets)
def test_runs_may_touch(pages: set[int]) -> None:
    touching = PageRuns.of([(page, 1) for page in sorted(pages)])
    alone = runs_of(pages)
    assert np.array_equal(touching.words, alone.words)
    assert touching.place == alone.place


@given(page_sets, st.sets(st.integers(0, 300)))
def test_split(pages: set[int], chosen: set[int]) -> None:
    flags = np.array([page in chosen for page in sorted(pages)], bool)
    for runs in (runs_of(pages), words_of(pages, 0, 5)):
        rest, picked = runs.split(flags)
        assert set(picked.indices().tolist()) == pages & chosen
        assert set(rest.indices().tolist()) == pages - chosen


def test_empty() -> None:
    for empty in (EMPTY, PageRuns.of_words(3, np.zeros(2, np.uint64))):
        assert len(empty) == empty.page_count == len(empty.indices()) == 0
        assert list(empty) == []
        assert PageRuns.of([]) == empty != PageRuns.of([(1, 1)])
    assert EMPTY != "no pages"
