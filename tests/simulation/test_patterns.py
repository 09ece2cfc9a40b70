"""How modelled guests write."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.memory.bitmap import Bitmap
from vmferry.simulation import patterns
from vmferry.simulation.patterns import HotColdPattern, Pattern, Phase, PhasedPattern, SweepPattern, UniformPattern

S = 1_000_000_000


def pages_of(pattern: Pattern, cpu_ns: int, page_count: int = 1000) -> list[int]:
    bitmap = Bitmap(page_count)
    pattern.write(cpu_ns, bitmap)
    return [int(page) for page in bitmap.runs().indices()]


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


def test_phases_take_turns_in_cpu_time() -> None:
    phases = PhasedPattern([Phase(S, SweepPattern(0, 100, 10)), Phase(2 * S, SweepPattern(500, 100, 10))])
    assert len(pages_of(phases, S)) == 10
    assert min(pages_of(phases, 2 * S)) == 500
    assert pages_of(phases, S) == list(range(10, 20))


def test_whole_rounds_of_phases_are_written_at_once() -> None:
    phases = PhasedPattern([Phase(1, SweepPattern(0, 1000, 10)), Phase(1, SweepPattern(1000, 1000, 10))])
    assert len(pages_of(phases, 2**62, 2000)) == 2000, "2^61 rounds, but no more than a few steps"
    phases = PhasedPattern([Phase(S, SweepPattern(0, 100, 10)), Phase(2 * S, SweepPattern(500, 100, 10))])
    assert pages_of(phases, 7 * S) == [*range(30), *range(500, 540)]


def test_random_pages_are_drawn_from_chunks_of_the_area(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_CHUNK_PAGES", 64)
    pattern = UniformPattern(5, 1000, 500, np.random.default_rng(1))
    hits = np.zeros(1010)
    for _ in range(400):
        hits[pages_of(pattern, S, 1010)] += 1
    assert not hits[:5].any()
    assert not hits[1005:].any()
    share = 1 - np.exp(-0.5)
    assert hits[5:1005].mean() / 400 == pytest.approx(share, rel=0.02)
    assert hits[5:1005].std() == pytest.approx(np.sqrt(400 * share * (1 - share)), rel=0.1)
