"""What is expected of a migration while it runs."""

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulation.qemu.scenes import scenario
from tests.support.known import known
from vmferry.cancel import CancelToken
from vmferry.cli.progress import outlook_text
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.looking_on import look_on
from vmferry.control.ports import Ports
from vmferry.control.telling.outlook import Outlook, Outlooks
from vmferry.migration.journal import MemoryJournal
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.releases import find_release

MIB = 1 << 20
BANDWIDTH = 50 * MIB
sizes = st.integers(0, 1 << 50)


def progress(status: str = "active", **figures: float) -> Progress:
    names = {"remaining": "remaining", "total": "total", "page_size": "page-size", "syncs": "dirty-sync-count"}
    ram = {names[name]: value for name, value in figures.items() if name in names}
    ram |= {"mbps": figures.get("bandwidth", 0) * 8 / 1e6, "dirty-pages-rate": figures.get("dirtied", 0) / 4096}
    return Progress.from_qmp({"status": status, "total-time": figures.get("elapsed_ms", 0), "ram": ram})


def test_what_is_dirtied_meanwhile_has_to_be_sent_again() -> None:
    """600 MiB are left at 100 MiB/s, 100 of them may wait for the downtime; half as much comes back."""
    figures: dict[str, Any] = {"bandwidth": 100 * MIB, "dirtied": 50 * MIB, "remaining": 600 * MIB, "total": 1000 * MIB}
    now = progress(elapsed_ms=10_000, syncs=2, **figures)
    outlook = Outlooks(downtime_limit_ms=1000).update(now)
    assert outlook.least_s == pytest.approx(5)
    assert outlook.most_s
    assert 10 < outlook.most_s < 20
    assert outlook.downtime_s
    assert outlook.downtime_s <= 1


@pytest.mark.parametrize(("syncs", "dirtied"), [(1, 0), (2, 100 * MIB), (2, 300 * MIB)])
def test_what_may_never_end_has_no_upper_bound(syncs: int, dirtied: int) -> None:
    """In the first iteration nothing is known of the dirty rate."""
    now = progress(bandwidth=100 * MIB, dirtied=dirtied, remaining=600 * MIB, total=1000 * MIB, syncs=syncs)
    outlook = Outlooks(300).update(now)
    assert outlook.least_s
    assert outlook.most_s is None


def test_who_dirties_as_fast_as_is_sent_does_not_converge_however_little_is_left() -> None:
    """At the end of each iteration next to nothing is left; that is no progress."""
    forecast = Outlooks(300)
    figures: dict[str, Any] = {"bandwidth": 100 * MIB, "total": 1000 * MIB}
    first = forecast.update(progress(elapsed_ms=10_000, syncs=1, remaining=100 * MIB, **figures))
    assert (first.percent or 0) <= 50
    assert first.converges is None
    for elapsed_ms, remaining in ((20_000, 1000 * MIB), (29_900, 31 * MIB)):
        later = progress(elapsed_ms=elapsed_ms, syncs=5, dirtied=200 * MIB, remaining=remaining, **figures)
        outlook = forecast.update(later)
        assert (outlook.percent, outlook.converges, outlook.most_s) == (None, False, None)
        assert outlook_text(outlook).startswith("does not converge yet, needs a throttle of ")


def test_what_was_dirtied_since_the_last_sync_is_still_to_be_sent() -> None:
    """At 50 of 100 MiB/s, 10 s after the sync 500 MiB more are left than the monitor says."""
    outlooks = Outlooks(300)
    figures: dict[str, Any] = {"bandwidth": 100 * MIB, "dirtied": 50 * MIB, "total": 1000 * MIB, "syncs": 2}
    outlooks.update(progress(elapsed_ms=10_000, remaining=1000 * MIB, **figures))
    outlook = outlooks.update(progress(elapsed_ms=20_000, remaining=1, **figures))
    assert outlook.least_s == 0
    assert outlook.most_s
    assert outlook.most_s > 5
    assert outlook.percent
    assert outlook.percent < 80


def test_a_time_that_is_over_and_did_not_bring_the_end_is_promised_no_more() -> None:
    outlooks = Outlooks(300)
    figures: dict[str, Any] = {"bandwidth": 100 * MIB, "dirtied": 10 * MIB, "total": 1000 * MIB, "remaining": 40 * MIB}
    first = outlooks.update(progress(elapsed_ms=10_000, syncs=2, **figures))
    assert first.converges
    later = [outlooks.update(progress(elapsed_ms=11_000 + 500 * n, syncs=3 + n, **figures)) for n in range(40)]
    assert later[-1].converges is False
    assert later[-1].percent is None


def test_nothing_is_known_before_anything_was_sent() -> None:
    outlook = Outlooks(300).update(progress("setup"))
    assert outlook == Outlook(None, converges=None, least_s=None, most_s=None)
    assert outlook_text(outlook) == "time left unknown"


def test_what_a_limit_on_dirtying_takes_is_unknown() -> None:
    outlooks = Outlooks(300)
    limited = replace(progress(total=1 << 30, remaining=1 << 29), throttle_percent=90, throttle_takes_time=False)
    assert outlooks.update(progress(total=1 << 30, remaining=1 << 29)).lost_s == 0
    assert outlooks.update(limited).lost_s is None
    assert outlooks.update(progress("completed")).lost_s is None


def test_it_does_not_matter_how_long_somebody_has_looked_on() -> None:
    """Whoever drives a migration and whoever begins late to watch it are told about the same."""
    driver, watcher = Outlooks(300), Outlooks(300)
    figures: dict[str, Any] = {"bandwidth": 100 * MIB, "total": 1000 * MIB, "dirtied": 10 * MIB}
    for second in range(11):
        driver.update(progress(elapsed_ms=second * 1000, syncs=1 + second // 10, remaining=500 * MIB, **figures))
    now = progress(elapsed_ms=11_000, syncs=2, remaining=400 * MIB, **figures)
    ours, theirs = driver.update(now), watcher.update(now)
    assert ours.converges
    assert theirs.converges
    assert ours.least_s == theirs.least_s
    assert ours.percent == pytest.approx(theirs.percent, abs=5)


def started(release: str, write_rate: str, set_size: str, *, auto_converge: bool) -> ModelledLab:
    """A modelled QEMU that migrates, over 50 MiB/s."""
    experiment = scenario(rate=write_rate, load=set_size).with_settings({"guest.used-memory": "192M"})
    lab = ModelledLab(experiment, find_release(release), seed=0)
    monitor = lab.connect()
    states = [{"capability": "auto-converge", "state": auto_converge}]
    monitor.execute("migrate-set-capabilities", {"capabilities": states})
    monitor.execute("migrate-set-parameters", {"max-bandwidth": BANDWIDTH, "downtime-limit": 100})
    monitor.execute("migrate", {"uri": URI})
    return lab


def looked_on(lab: ModelledLab, watch: Callable[[Progress], None]) -> Result:
    """Look on until the migration ends."""
    ports = Ports(lab.connect(), lab.clock, CancelToken(), lambda text: None, lambda text: None)
    return look_on(ports, MemoryJournal(), watch)


def course(release: str, write_rate: str, set_size: str) -> tuple[float, list[tuple[float, Outlook]]]:
    """How long a modelled QEMU's own migration takes in seconds, and what was to be expected at each poll."""
    lab = started(release, write_rate, set_size, auto_converge=True)
    outlooks, seen = Outlooks(100), list[tuple[float, Outlook]]()

    def watch(progress: Progress) -> None:
        seen.append(((progress.elapsed_ms or 0) / 1000, outlooks.update(progress)))

    told = looked_on(lab, watch)
    return known(told.last.elapsed_ms) / 1000, seen


LOADS = [("1MB/s", "96M"), ("10MB/s", "96M"), ("30MB/s", "96M"), ("60MB/s", "160M"), ("1GB/s", "96M"), ("1GB/s", "8M")]


@pytest.mark.parametrize(("rate", "size"), LOADS)
def test_the_bar_stands_at_99_percent_for_less_than_half_of_the_time(rate: str, size: str) -> None:
    _, seen = course("qemu-7.2", rate, size)
    assert sum((outlook.percent or 0) >= 99 for _, outlook in seen) < 0.5 * len(seen)


@pytest.mark.parametrize(("rate", "size"), LOADS[1:4])
def test_the_end_comes_within_the_range_where_the_throttle_stays(rate: str, size: str) -> None:
    """Four of five times or more; a poll sees the end up to 0.3 s late."""
    total_s, seen = course("qemu-10", rate, size)
    ranges = [(total_s - now_s, known(told.least_s), told.most_s) for now_s, told in seen if told.most_s is not None]
    assert len(ranges) > 3
    held = [least_s - 0.2 <= left_s <= most_s + 0.3 for left_s, least_s, most_s in ranges]
    assert sum(held) >= 0.8 * len(held)


FACTORS = [math.exp(NormalDist(0, math.log(1.25) / 1.2816).inv_cdf((number + 0.5) / 20)) for number in range(20)]
"""How much faster or slower twenty links go on, of those of which one in ten does more than 1.25 times as much."""


def left_after_the_first_forecast(rate: str, factor: float) -> tuple[float, Outlook]:
    """How long a modelled migration takes once its link has changed, and what was told just before."""
    lab = started("qemu-10", rate, "96M", auto_converge=False)
    outlooks, told = Outlooks(100), list[tuple[float, Outlook]]()

    def watch(seen: Progress) -> None:
        outlook = outlooks.update(seen)
        if outlook.median_s and not told:
            told.append(((seen.elapsed_ms or 0) / 1000, outlook))
            lab.connect().execute("migrate-set-parameters", {"max-bandwidth": round(BANDWIDTH * factor)})

    result = looked_on(lab, watch)
    ((told_s, outlook),) = told
    return known(result.last.elapsed_ms) / 1000 - told_s, outlook


@pytest.mark.parametrize("rate", ["10MB/s", "20MB/s", "30MB/s"])
def test_of_ten_migrations_one_is_sooner_and_one_is_later_than_was_told(rate: str) -> None:
    """They are true of links as they are meant, within what the look-ahead errs in itself."""
    courses = [left_after_the_first_forecast(rate, factor) for factor in FACTORS]
    by_soon, by_median, by_most = (
        sum(left_s <= known(getattr(told, quantile)) for left_s, told in courses) / len(courses)
        for quantile in ("soon_s", "median_s", "most_s")
    )
    assert by_soon == pytest.approx(0.1, abs=0.1)
    assert by_median == pytest.approx(0.5, abs=0.15)
    assert by_most == pytest.approx(0.9, abs=0.1)


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
    forecast = Outlooks(300)
    for poll in polls:
        outlook = forecast.update(poll)
        assert outlook.percent is None or 0 <= outlook.percent <= 99
        assert (outlook.percent is None) == (outlook.converges is False or outlook.least_s is None)
    assert forecast.update(progress("completed")).percent == 100
