"""What is expected of a migration while it runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmferry.control.drive import Progress
from vmferry.control.forecast import Forecast

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


def test_progress_waits_while_there_is_no_end() -> None:
    forecast = Forecast(300)
    figures = {"bandwidth": 100 * MIB, "total": 1000 * MIB, "remaining": 100 * MIB}
    first = forecast.update(progress(elapsed_ms=10_000, syncs=1, **figures))
    later = forecast.update(progress(elapsed_ms=90_000, syncs=5, dirtied=200 * MIB, **figures))
    assert first.percent == later.percent <= 50


def test_nothing_is_known_before_anything_was_sent() -> None:
    outlook = Forecast(300).update(progress("setup"))
    assert (outlook.percent, outlook.least_s, outlook.most_s) == (0, None, None)


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
def test_progress_never_goes_back_and_is_whole_at_the_end_only(polls: list[Progress]) -> None:
    forecast = Forecast(300)
    percents = [forecast.update(poll).percent for poll in polls]
    assert percents == sorted(percents)
    assert all(0 <= percent <= 99 for percent in percents)
    assert forecast.update(progress("completed")).percent == 100
