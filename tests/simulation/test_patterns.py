"""How modelled guests write."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.memory import bitmap
from vmferry.memory.bitmap import Bitmap
from vmferry.simulation import patterns
from vmferry.simulation.patterns import (
    HotColdPattern,
    HotSpotPattern,
    MovingPattern,
    Pattern,
    SweepPattern,
    UniformPattern,
)

S = 1_000_000_000


def pages_of(pattern: Pattern, cpu_ns: int, page_count: int = 1000) -> list[int]:
    written = Bitmap(page_count)
    pattern.write(cpu_ns, written)
    return [int(page) for page in written.runs().indices()]


def test_a_sweep_goes_on_where_it_was_and_around() -> None:
    sweep = SweepPattern(100, 10, pages_per_s=4)
    assert pages_of(sweep, S) == [100, 101, 102, 103]
    assert pages_of(sweep, S // 8) == []
    assert pages_of(sweep, S // 8) == [104]
    assert pages_of(sweep, 2 * S) == [100, 101, 102, 105, 106, 107, 108, 109]
    assert pages_of(sweep, 100 * S) == list(range(100, 110))


@given(st.lists(st.integers(0, 3 * S), max_size=20), st.integers(1, 50))
def test_a_sweep_cut_into_pieces_is_the_same_sweep(pieces: list[int], page_count: int) -> None:
    rate, together, apart = 4.0, SweepPattern(0, page_count, 4.0), SweepPattern(0, page_count, 4.0)
    pages = {page for piece in pieces for page in pages_of(apart, piece, 64)}
    whole = pages_of(together, sum(pieces), 64)
    assert len(pages ^ set(whole)) <= 1, f"rounding only, at {rate} pages/s"


def test_uniform_writes_as_many_different_pages_as_chance_leaves() -> None:
    pattern = UniformPattern(0, 1000, 1000, np.random.default_rng(1))
    counts = [len(pages_of(pattern, S)) for _ in range(50)]
    assert np.mean(counts) == pytest.approx(1000 * (1 - np.exp(-1)), rel=0.02)
    assert len(pages_of(UniformPattern(0, 0, 1000, np.random.default_rng(1)), S)) == 0


def test_hot_pages_are_written_more_often_than_cold_ones() -> None:
    pattern = HotColdPattern(0, 1000, 200, 1.0, np.random.default_rng(1))
    hits = np.zeros(1000)
    for _ in range(400):
        hits[pages_of(pattern, S)] += 1
    assert hits[:10].mean() > 4 * hits[100:200].mean() > 4 * hits[500:].mean() * 0.9
    assert sum(count for _, count in pattern.areas()) == 1000


def test_so_many_of_the_writes_go_to_the_hot_part_and_the_others_to_the_rest() -> None:
    pattern = HotSpotPattern(100, 1000, 400, 100, 0.75, np.random.default_rng(1))
    counts = [pages_of(pattern, S // 10, 1100) for _ in range(200)]
    hot = np.mean([sum(page < 200 for page in pages) for pages in counts])
    assert hot == pytest.approx(100 * (1 - np.exp(-30 / 100)), rel=0.05)
    assert np.mean([len(pages) for pages in counts]) - hot == pytest.approx(900 * (1 - np.exp(-10 / 900)), rel=0.05)
    assert min(min(pages) for pages in counts) >= 100


def test_a_working_set_is_walked_some_rounds_and_then_moves_on() -> None:
    moving = MovingPattern(100, 10, pages_per_s=8, window_count=4, rounds=2)
    assert pages_of(moving, S // 2) == [100, 101, 102, 103]
    assert pages_of(moving, S // 4) == [100, 101]
    assert pages_of(moving, S // 2) == [102, 103, 104, 105]
    assert pages_of(moving, S) == [104, 105, 106, 107, 108, 109]
    assert pages_of(moving, S // 2) == [100, 101, 108, 109], "around the end"


@given(
    st.lists(st.integers(0, 20), max_size=10),
    st.integers(1, 40).flatmap(lambda pages: st.tuples(st.just(pages), st.integers(1, pages))),
    st.integers(1, 3),
)
def test_a_moving_working_set_is_what_its_writes_one_by_one_are(
    pieces: list[int], sizes: tuple[int, int], rounds: int
) -> None:
    page_count, window = sizes
    moving, done = MovingPattern(3, page_count, 1.0, window, rounds), 0
    for piece in pieces:
        writes = range(done, done + piece)
        expected = {3 + (write // (window * rounds) * window + write % window) % page_count for write in writes}
        assert set(pages_of(moving, piece * S)) == expected
        done += piece


def test_a_long_time_makes_all_windows_dirty_at_once() -> None:
    assert pages_of(MovingPattern(0, 1000, 1e6, 7, 3), 10**15) == list(range(1000))


@pytest.mark.parametrize("few", [0, 1 << 30])
def test_each_page_is_hit_by_chance_whether_words_are_drawn_or_single_pages(
    few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "_FEW", few)
    monkeypatch.setattr(bitmap, "BLOCK_WORDS", 3)
    pattern = UniformPattern(5, 1000, 500, np.random.default_rng(1))
    hits = np.zeros(1010)
    for _ in range(400):
        hits[pages_of(pattern, S, 1010)] += 1
    assert not hits[:5].any()
    assert not hits[1005:].any()
    share = 1 - np.exp(-0.5)
    assert hits[5:1005].mean() / 400 == pytest.approx(share, rel=0.02)
    assert hits[5:1005].std() == pytest.approx(np.sqrt(400 * share * (1 - share)), rel=0.1)
    assert pages_of(pattern, 100 * S, 1010) == list(range(5, 1005))
