"""What is expected of a migration while it runs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.cli.progress import outlook_text
from vmferry.control.forecast import Forecast, Outlook
from vmferry.control.progress import Progress

MIB = 1 << 20
sizes = st.integers(0, 1 << 50)


def progress(status: str = "active", **figures: float) -> Progress:
    names = {"remaining": "remaining", "total": "total", "page_size": "page-size", "syncs": "dirty-sync-count"}
    ram = {names[name]: value for name, value in figures.items() if name in names}
    ram |= {"mbps": figures.get("bandwidth", 0) * 8 / 1e6, "dirty-pages-rate": figures.get("dirtied", 0) / 4096}
    return Progress.from_qmp({"status": status, "total-time": figures.get("elapsed_ms", 0), "ram": ram})


def test_what_is_dirtied_meanwhile_has_to_be_sent_again() -> None:
    """600 MiB are left at 100 MiB/s, 100 of them may wait for the downtime; half as much comes back."""
    now = progress(bandwidth=100 * MIB, dirtied=50 * MIB, remaining=600 * MIB, total=1000 * MIB, syncs=2)
    outlook = Forecast(downtime_limit_ms=1000).update(now)
    assert outlook.least_s == pytest.approx(5)
    assert outlook.most_s == pytest.approx(10)


@pytest.mark.parametrize(("syncs", "dirtied"), [(1, 0), (2, 100 * MIB), (2, 300 * MIB)])
def test_what_may_never_end_has_no_upper_bound(syncs: int, dirtied: int) -> None:
    """In the first iteration nothing is known of the dirty rate."""
    now = progress(bandwidth=100 * MIB, dirtied=dirtied, remaining=600 * MIB, total=1000 * MIB, syncs=syncs)
    outlook = Forecast(300).update(now)
    assert outlook.least_s
    assert outlook.most_s is None


def test_who_dirties_as_fast_as_is_sent_does_not_converge_however_little_is_left() -> None:
    """At the end of each iteration next to nothing is left; that is no progress."""
    forecast = Forecast(300)
    figures: dict[str, Any] = {"bandwidth": 100 * MIB, "total": 1000 * MIB}
    first = forecast.update(progress(elapsed_ms=10_000, syncs=1, remaining=100 * MIB, **figures))
    assert (first.percent or 0) <= 50
    assert first.converges is None
    for elapsed_ms, remaining in ((20_000, 1000 * MIB), (29_900, 31 * MIB)):
        later = progress(elapsed_ms=elapsed_ms, syncs=5, dirtied=200 * MIB, remaining=remaining, **figures)
        outlook = forecast.update(later)
        assert (outlook.percent, outlook.converges, outlook.most_s) == (None, False, None)
        assert outlook_text(outlook) == "does not converge yet"


def test_what_was_dirtied_since_the_last_sync_is_still_to_be_sent() -> None:
    """At 50 of 100 MiB/s, 10 s after the sync 500 MiB more are left than the monitor says."""
    forecast = Forecast(0)
    figures: dict[str, Any] = {"bandwidth": 100 * MIB, "dirtied": 50 * MIB, "total": 1000 * MIB, "syncs": 2}
    forecast.update(progress(elapsed_ms=10_000, remaining=1000 * MIB, **figures))
    outlook = forecast.update(progress(elapsed_ms=20_000, remaining=1, **figures))
    assert outlook.most_s == pytest.approx(10)
    assert outlook.percent in (66, 67)


def test_nothing_is_known_before_anything_was_sent() -> None:
    outlook = Forecast(300).update(progress("setup"))
    assert outlook == Outlook(None, converges=None, least_s=None, most_s=None)
    assert outlook_text(outlook) == "time left unknown"


def test_it_does_not_matter_how_long_somebody_has_looked_on() -> None:
    """Whoever drives a migration and whoever begins late to watch it are told the same of a sync that both saw."""
    driver, watcher = Forecast(300), Forecast(300)
    figures: dict[str, Any] = {"bandwidth": 100 * MIB, "total": 1000 * MIB}
    for second in range(30):
        driver.update(progress(elapsed_ms=second * 1000, syncs=1 + second // 10, remaining=500 * MIB, **figures))
    now = progress(elapsed_ms=31_000, syncs=4, remaining=400 * MIB, dirtied=10 * MIB, **figures)
    assert driver.update(now) == watcher.update(now)


@given(
    st.lists(
        st.builds(
            progress,
            elapsed_ms=st.integers(0, 10**9),
            bandwidth=sizes,
            dirtied=sizes,
            remaining=sizes,
            total=sizes,
            syncs=st.integers(0, 9),
        )
    )
)
def test_progress_is_whole_at_the_end_only(polls: list[Progress]) -> None:
    forecast = Forecast(300)
    for poll in polls:
        outlook = forecast.update(poll)
        assert outlook.percent is None or 0 <= outlook.percent <= 99
        assert (outlook.percent is None) == (outlook.converges is False or outlook.least_s is None)
    assert forecast.update(progress("completed")).percent == 100
