import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.errors import UsageError
from vmferry.migration.dirty_rate import DirtyLogProbe, DirtyRateMode, DirtyRateRequest, PageSamplingProbe
from vmferry.testing.memory_guest import MemoryGuest

PAGES = 300


@given(st.lists(st.integers(0, PAGES - 1)), st.lists(st.integers(0, PAGES - 1)))
def test_the_dirty_log_counts_each_page_written_since_once(before: list[int], after: list[int]) -> None:
    guest = MemoryGuest(PAGES)
    for page in before:
        guest.write(page, 1)
    probe = DirtyLogProbe(guest)
    for page in after:
        guest.write(page, 1)
    assert probe.dirtied_bytes() == len(set(after)) * 4096
    probe.close()
    assert not guest.logging


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_samples_tell_the_share_that_changed(share: float) -> None:
    guest = MemoryGuest(4096)
    probe = PageSamplingProbe(guest, 1024 * 128, np.random.default_rng(1))
    for page in range(0, 4096, round(1 / share) if share else 4096):
        guest.write(page, 7 if share else 0)
    assert probe.dirtied_bytes() == pytest.approx(share * (16 << 20), rel=0.1)


def test_even_the_smallest_guest_is_sampled() -> None:
    guest = MemoryGuest(1)
    probe = PageSamplingProbe(guest, 128, np.random.default_rng(1))
    guest.write(0, 1)
    assert probe.dirtied_bytes() == 4096


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"period_ms": 49}, "out of range"),
        ({"period_ms": 60_001}, "out of range"),
        ({"period_ms": 50, "sample_pages_per_gib": 16_385}, "out of range"),
        ({"period_ms": 50, "mode": DirtyRateMode.DIRTY_RING}, "not enabled"),
        ({"period_ms": 50, "mode": DirtyRateMode.DIRTY_BITMAP, "sample_pages_per_gib": 512}, "only in page-sampling"),
    ],
)
def test_what_cannot_be_measured_is_refused(request_: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        DirtyRateRequest(**request_)  # type: ignore[arg-type]
