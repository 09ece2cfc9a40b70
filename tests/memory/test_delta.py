"""What changed of pages comes out as it went in, in no more bytes; whatever else comes in changes nothing."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vmferry.errors import PeerError
from vmferry.memory.delta import PageChanges, apply_delta

WORDS = 8
PAGE_SIZE = 8 * WORDS
Pages = NDArray[np.uint64]

pages_of_words = st.lists(st.lists(st.sampled_from([0, 1, 2**63]), min_size=WORDS, max_size=WORDS), max_size=9)


def rows(words: list[list[int]]) -> Pages:
    return np.array(words, np.uint64).reshape(-1, WORDS)


def views_of(pages: Pages, split_at: int = 0) -> list[memoryview]:
    parts = [part for part in (pages[:split_at], pages[split_at:]) if len(part)]
    return [part.data.cast("B") for part in parts]


def runs_of(old: list[int], new: list[int]) -> list[tuple[int, list[int]]]:
    """Return where each run of changed words of one page begins, and what it holds."""
    runs: list[tuple[int, list[int]]] = []
    for place, (before, after) in enumerate(zip(old, new, strict=True)):
        if before == after:
            continue
        if runs and sum((runs[-1][0], len(runs[-1][1]))) == place:
            runs[-1][1].append(after)
        else:
            runs.append((place, [after]))
    return runs


def naive_delta(old: list[list[int]], new: list[list[int]]) -> bytes:
    runs = [runs_of(*pair) for pair in zip(old, new, strict=True)]
    counts = b"".join(len(of_page).to_bytes(2, "little") for of_page in runs)
    all_runs = [run for of_page in runs for run in of_page]
    places = b"".join(first.to_bytes(2, "little") + len(words).to_bytes(2, "little") for first, words in all_runs)
    return counts + places + b"".join(word.to_bytes(8, "little") for _, words in all_runs for word in words)


@given(pages_of_words, pages_of_words, st.data())
def test_it_is_what_a_naive_encoder_makes_and_makes_the_new_pages_of_the_old(
    old: list[list[int]], new: list[list[int]], data: st.DataObject
) -> None:
    count = min(len(old), len(new))
    old, new = old[:count], new[:count]
    chosen = np.array(data.draw(st.lists(st.booleans(), min_size=count, max_size=count)), np.bool_)
    changes = PageChanges(rows(old), rows(new))
    delta = changes.encode(chosen)
    picked = np.flatnonzero(chosen).tolist()
    assert delta == naive_delta([old[page] for page in picked], [new[page] for page in picked])
    assert changes.sizes_bytes.tolist() == [len(naive_delta([old[page]], [new[page]])) for page in range(count)]
    result = rows(old)[chosen]
    apply_delta(delta, views_of(result, data.draw(st.integers(0, count))), PAGE_SIZE)
    assert np.array_equal(result, rows(new)[chosen])


def test_a_word_of_a_real_page_takes_fourteen_bytes_and_a_page_of_new_content_a_little_more_than_itself() -> None:
    old = np.zeros((3, 512), np.uint64)
    new = old.copy()
    new[0, 77] = 1
    new[2] = 1
    assert PageChanges(old, new).sizes_bytes.tolist() == [14, 2, 4096 + 6]


def edited(delta: bytes, place: int, value: int) -> bytes:
    return delta[:place] + value.to_bytes(2, "little") + delta[place + 2 :]


OLD = np.zeros((2, WORDS), np.uint64)
NEW = OLD.copy()
NEW[0, [1, 4, 5]] = NEW[1, 7] = 9
GOOD = PageChanges(OLD, NEW).encode(np.ones(2, np.bool_))
"""Counts 2 and 1, then the runs (1, 1), (4, 2) and (7, 1), then four words."""


@pytest.mark.parametrize(
    "damage",
    [
        lambda delta: b"",
        lambda delta: delta[:-1],
        lambda delta: delta + b"\0",
        lambda delta: delta[:3],
        lambda delta: edited(delta, 0, 3),
        lambda delta: edited(delta, 0, 0xFFFF),
        lambda delta: edited(delta, 0, 1),
        lambda delta: edited(delta, 6, 0),
        lambda delta: edited(delta, 8, 1),
        lambda delta: edited(delta, 8, 0),
        lambda delta: edited(delta, 8, 7),
        lambda delta: edited(delta, 12, 8),
        lambda delta: edited(delta, 12, 0xFFFF),
        lambda delta: edited(delta, 10, 0xFFFF),
    ],
)
def test_damage_is_noticed_before_anything_is_changed(damage: Callable[[bytes], bytes]) -> None:
    pages = OLD.copy()
    with pytest.raises(PeerError, match="delta of pages that is damaged"):
        apply_delta(damage(GOOD), views_of(pages), PAGE_SIZE)
    assert not pages.any()


@given(st.binary(max_size=200), st.integers(0, 3))
def test_garbage_is_refused_as_a_whole_or_stays_within_the_pages(garbage: bytes, count: int) -> None:
    around = np.full((count + 2, WORDS), 5, np.uint64)
    pages = around[1:-1]
    try:
        apply_delta(garbage, views_of(pages, count // 2), PAGE_SIZE)
    except PeerError as error:
        assert "\n" not in str(error)
        assert (around == 5).all()
    assert (around[[0, -1]] == 5).all()
