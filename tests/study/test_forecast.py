"""Forecasts of guests whose curve is known exactly."""

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.known import known
from tests.support.priced import priced
from vmferry.convergence.variants import PLANNED
from vmferry.convergence.written import Written
from vmferry.experiment.scenario import parse_scenario
from vmferry.migration.events import BandwidthWindow
from vmferry.migration.journal import Entry
from vmferry.migration.outcome import Outcome
from vmferry.simulation.run import simulate
from vmferry.study.bursts import Look
from vmferry.study.draws import Draw, possible_draws
from vmferry.study.forecast import (
    DrawnRun,
    Interval,
    StrategyForecast,
    best_of,
    carried_out,
    fewest_runs,
    forecast,
    verdict,
)
from vmferry.study.modelled_load import hurry_of
from vmferry.study.reason import reason
from vmferry.study.recorded_survey import survey_of
from vmferry.study.strategies import (
    NO_THROTTLE,
    OWN,
    POSTCOPY,
    outcome_of,
    outcome_throttled,
    strategies_of,
)
from vmferry.study.survey import QEMU_NEW, QEMU_OLD, Survey
from vmferry.study.told import work_out

MIB = 1 << 20
MS = 1_000_000


def survey(set_mib: int, mib_per_s: int, downtime_limit_ms: int = 300) -> Survey:
    """A guest of 256 MiB that rewrites a set from its beginning to its end; the link carries 100 MiB/s."""
    written = tuple(
        Written(window * MS, 1.0, round(min(set_mib, mib_per_s * window / 1000) * MIB))
        for window in (50, 100, 200, 400, 1000, 2000)
    )
    return Survey(
        memory_bytes=256 * MIB,
        used_bytes=256 * MIB,
        vcpu_count=2,
        written=written,
        bandwidth_bytes_per_s=100 * MIB,
        downtime_limit_ms=downtime_limit_ms,
    )


def foretold(strategy: str, total_ms: int, lost_vcpu_s: float, chance: float = 1.0) -> StrategyForecast:
    total, lost = (Interval(value, value, value) for value in (total_ms, lost_vcpu_s))
    return StrategyForecast(
        strategy=strategy,
        chance=chance,
        total_time_ms=total,
        downtime_ms=total,
        work_lost_vcpu_s=lost,
        sent_bytes=None,
    )


def test_the_best_strategy_is_sure_then_fast_and_of_those_that_hardly_differ_the_gentlest() -> None:
    calm, quick, own = foretold(NO_THROTTLE, 5930, 0), foretold(PLANNED.name, 5910, 0), foretold("original", 5920, 3)
    assert best_of([calm, quick, own]) is calm, "nothing has to be done"
    assert best_of([foretold(NO_THROTTLE, 9000, 0), quick, own]) is quick
    assert best_of([foretold(NO_THROTTLE, 3000, 0, chance=0.4), own]) is own
    calm, quick = foretold(NO_THROTTLE, 85, 0), foretold(PLANNED.name, 80, 0)
    assert best_of([calm, quick]) is calm, "what differs by milliseconds is as fast"
    assert best_of([]) is None


def test_a_quiet_guest_will_move_by_itself_whatever_is_done() -> None:
    for told in forecast(survey(200, 5), (NO_THROTTLE, "original", PLANNED.name), draws=2):
        assert told.chance == 1
        assert told.total_time_ms
        assert 2400 < told.total_time_ms.p50 < 3500
        assert told.work_lost_vcpu_s
        assert told.work_lost_vcpu_s.p90 == 0


def test_a_busy_guest_needs_to_be_slowed_and_what_would_do_instead_is_told() -> None:
    busy = survey(200, 2000)
    free, planned = forecast(busy, (NO_THROTTLE, PLANNED.name), draws=2)
    assert (free.chance, planned.chance) == (0, 1)
    assert planned.work_lost_vcpu_s
    assert planned.work_lost_vcpu_s.p50 > 0
    price = priced(busy)
    assert price.throttle_percent
    assert 80 < price.throttle_percent < 99
    assert price.downtime_limit_ms
    assert price.bandwidth_bytes_per_s
    with_price = survey(200, 2000, downtime_limit_ms=round(price.downtime_limit_ms * 1.2))
    (told,) = forecast(with_price, (NO_THROTTLE,), draws=2)
    assert told.chance == 1, "the downtime that is named would do"


def test_a_set_that_is_rewritten_however_fast_fits_some_link() -> None:
    """Seen in windows of a second only, it may be written much faster than they show, and than the look-ahead says."""
    seen = tuple(Written(window * MS, 1.0, 150 * MIB) for window in (1000, 2000, 3000))
    busy = replace(survey(150, 2000), vcpu_count=3, used_bytes=151 * MIB, written=seen)
    price = priced(busy)
    fitting = 150 * MIB / 0.3
    assert 0.7 * fitting < known(price.bandwidth_bytes_per_s) < 1.3 * fitting
    percent = known(price.throttle_percent)
    assert outcome_throttled(busy, percent, Draw()).completed
    assert not outcome_throttled(busy, percent - 1, Draw()).completed


def test_forecasts_of_a_steady_guest_agree() -> None:
    told = [list(forecast(survey(200, 2000), (PLANNED.name,), draws=3)) for _ in range(2)]
    assert told[0] == told[1]


def test_where_there_is_no_time_each_strategy_is_carried_out_once_and_that_is_said() -> None:
    busy = survey(150, 2000)
    hurried = work_out("vm", busy, is_enough=lambda: True)
    assert {each.run_count for each in hurried.strategies} == {1}
    assert any("there was time for 1 of 5 by each strategy" in what for what in hurried.unknown)
    assert not hurried.prices.least
    (rough,) = (each.total_time_ms for each in hurried.strategies if each.strategy == PLANNED.name)
    (sure,) = forecast(busy, (PLANNED.name,))
    assert rough
    assert sure.total_time_ms
    assert rough.p90 > 1.5 * rough.p10
    assert rough.p10 < sure.total_time_ms.p50 < rough.p90
    assert known(hurried.prices.throttle_percent) >= known(priced(busy).throttle_percent)


def test_time_that_is_over_once_all_was_looked_for_has_cut_nothing_short(monkeypatch: pytest.MonkeyPatch) -> None:
    busy, tried = survey(200, 2000), []

    def throttled(survey: Survey, percent: int, draw: Draw) -> Outcome:
        tried.append(percent)
        return outcome_throttled(survey, percent, draw)

    monkeypatch.setattr("vmferry.study.prices.outcome_throttled", throttled)
    price = priced(busy)
    last = tried.pop()  # throttles are tried after all else
    tried.clear()
    assert price.least
    assert priced(busy, lambda: last in tried) == price


def test_what_always_takes_much_longer_than_another_need_not_be_known_better() -> None:
    def ran(*times_ms: int) -> list[DrawnRun]:
        return [
            DrawnRun(Draw(), Outcome(status="completed", total_time_ms=time_ms, vcpu_count=1)) for time_ms in times_ms
        ]

    busy = survey(200, 2000)
    fast = {PLANNED.name: ran(1000, 800, 900, 1100, 900)}  # which is not as one would expect of these draws
    assert fewest_runs(busy, fast | {OWN: ran(2300, 2900, 2500)}) is None
    assert fewest_runs(busy, fast | {OWN: ran(2100, 2900, 2500)}) == 3, "one was not so slow"
    assert fewest_runs(busy, fast | {OWN: ran(2300, 2900)}) == 2, "too few runs to tell"
    assert fewest_runs(busy, {POSTCOPY: fast[PLANNED.name], OWN: ran(2300, 2900, 2500)}) == 3, "post-copy is no rival"
    assert fewest_runs(busy, fast | {OWN: ran(4500)}) is None, "four times as long as the longest of the other's"
    assert fewest_runs(busy, fast | {OWN: ran(4300)}) == 1
    assert fewest_runs(replace(busy, looks=looks_at_bursts()), fast | {OWN: ran(4500)}) == 1, (
        "the next one may begin in a calm"
    )


def test_a_guest_that_moves_in_no_time_is_beaten_by_none() -> None:
    tiny = replace(survey(1, 0), used_bytes=MIB, bandwidth_bytes_per_s=12_500_000_000)
    told = work_out("tiny", tiny)
    assert all(known(each.total_time_ms).p50 < 1 for each in told.strategies)


def test_a_strategy_that_was_left_as_beaten_goes_on_once_its_rival_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = survey(200, 2000)
    numbers = [draw.number for draw in possible_draws(5, hurry_of(busy))]

    def moved(survey: Survey, strategy: str, draw: Draw) -> Outcome:
        if strategy == PLANNED.name:
            completes = draw.number != numbers[3]  # which is looked at after `original` was left
            return Outcome(status="completed" if completes else "cancelled", total_time_ms=1000, vcpu_count=1)
        return Outcome(status="completed", total_time_ms=9000, vcpu_count=1)

    monkeypatch.setattr("vmferry.study.forecast.outcome_of", moved)
    monkeypatch.setattr("vmferry.study.forecast._are_in_order", lambda runs: False)
    runs = carried_out(busy, [OWN, PLANNED.name])
    assert [run.draw.number for run in runs[OWN]] == [run.draw.number for run in runs[PLANNED.name]] == numbers


def test_a_guest_that_may_go_round_its_set_many_times_in_the_shortest_window_is_not_told_to_move() -> None:
    busy = replace(survey(100, 100), bandwidth_bytes_per_s=30 * MIB, vcpu_count=1)  # at 2 GB/s 99 % make it fit
    seconds = tuple(Written(window * 1000 * MS, 1.0, 100 * MIB) for window in (1, 2, 3))
    assert verdict(forecast(replace(busy, written=seconds, qemu=QEMU_OLD))) == "may"


def test_the_easiest_guest_comes_second_and_the_hardest_third() -> None:
    def ease(draw: Draw) -> float:
        return draw.link / draw.written / math.pow(100, draw.haste)

    _, easiest, hardest, *others = possible_draws(9, hurry=100)
    assert ease(easiest) > max(map(ease, others))
    assert ease(hardest) < min(map(ease, others))


def test_a_guest_that_converges_by_itself_has_no_price() -> None:
    price = priced(survey(200, 5))
    assert price.throttle_percent == 0
    assert price.downtime_limit_ms == pytest.approx(300)


def test_where_only_some_runs_move_by_themselves_the_price_list_is_for_those_that_do_not() -> None:
    near = survey(28, 2000)
    (free,) = forecast(near, (NO_THROTTLE,))
    assert 0 < free.chance < 1
    price = priced(near)
    assert known(price.downtime_limit_ms) > near.downtime_limit_ms
    assert known(price.throttle_percent) > 0
    assert reason(near, price, free.chance).startswith("The guest writes about as fast as 100 MiB/s carries it away")
    (sure,) = forecast(replace(near, downtime_limit_ms=round(known(price.downtime_limit_ms))), (NO_THROTTLE,))
    assert sure.chance == 1


@pytest.mark.parametrize("qemu", [QEMU_OLD, QEMU_NEW])
def test_of_a_qemu_its_own_way_the_drivers_and_post_copy_are_told(qemu: str) -> None:
    busy = replace(survey(200, 2000), qemu=qemu)
    told = {each.strategy: each for each in forecast(busy, draws=2)}
    assert tuple(told) == strategies_of(qemu)
    free, own, driven, fetched = (told[name] for name in (NO_THROTTLE, OWN, PLANNED.name, POSTCOPY))
    assert (free.chance, own.chance, driven.chance) == (0, 1, 1)
    assert own.total_time_ms
    assert driven.total_time_ms
    assert driven.total_time_ms.p50 < 0.5 * own.total_time_ms.p50
    assert fetched.total_time_ms
    assert fetched.total_time_ms.p50 == pytest.approx(1000 * (256 + 200) / 100, rel=0.1)
    assert fetched.downtime_ms is None, "nobody knows it"


def test_how_much_of_a_driven_guest_was_never_touched_makes_its_throttle_no_later() -> None:
    """In QEMU that memory is read in a moment; the driver knows of it here as it does on a host."""
    busy = replace(survey(200, 2000), used_bytes=200 * MIB, qemu=QEMU_NEW)
    small, large = (
        outcome_of(replace(busy, memory_bytes=size * MIB), PLANNED.name, Draw(scan=4.0)) for size in (256, 2048)
    )
    assert known(small.total_time_ms) < 2600
    assert known(large.total_time_ms) < known(small.total_time_ms) + 500


def test_a_guest_that_no_throttle_helps_will_not_and_post_copy_counts_for_nothing_there() -> None:
    flood = replace(survey(200, 2000), bandwidth_bytes_per_s=10 * MIB, downtime_limit_ms=10, qemu=QEMU_NEW)
    told = list(forecast(flood, (NO_THROTTLE, OWN, POSTCOPY), draws=2))
    assert verdict(told) == "will not"
    assert priced(flood).throttle_percent is None


def test_a_paced_guest_is_not_helped_by_a_throttle_that_leaves_it_what_it_wants() -> None:
    """It wants a twentieth of its CPU: 90 % off change nothing, where one that takes all would have converged."""
    paced = replace(survey(200, 400), demand=0.05)
    assert outcome_throttled(survey(200, 400), 90, Draw()).completed
    assert not outcome_throttled(paced, 90, Draw()).completed


def test_a_guest_of_a_hundred_times_the_size_and_link_takes_as_long() -> None:
    small = survey(200, 2000)
    large = replace(
        small,
        memory_bytes=100 * small.memory_bytes,
        used_bytes=100 * small.used_bytes,
        bandwidth_bytes_per_s=100 * small.bandwidth_bytes_per_s,
        written=tuple(replace(point, distinct_bytes=100 * point.distinct_bytes) for point in small.written),
    )
    one, hundred = (outcome_of(each, OWN, Draw()) for each in (small, large))
    assert known(hundred.total_time_ms) == pytest.approx(known(one.total_time_ms), rel=0.1)
    assert known(hundred.sent_bytes) == pytest.approx(100 * known(one.sent_bytes), rel=0.1)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=9), st.floats(0, 0.5))
def test_an_interval_holds_its_median_and_is_not_narrower_for_an_error(values: list[float], error: float) -> None:
    plain = Interval.of(values)
    assert plain
    wide = plain.widened(error)
    assert 0 <= wide.p10 <= plain.p10 + 1e-6
    assert wide.p50 == plain.p50
    assert wide.p90 >= plain.p90 - 1e-6


RECORDED = """
    name = "recorded"
    [guest]
    memory = "256M"
    vcpus = 2
    [[guest.loads]]
    pattern = "sweep"
    memory = "200M"
    write-rate = "1000MiB/s"
    [link]
    rate = "100MiB/s"
    [parameters]
    downtime-limit = 300
"""


def test_a_journal_tells_of_the_guest_as_well_as_a_measurement() -> None:
    """A simulated migration of a known guest is recorded; the forecast from its journal knows that guest."""
    recorded = simulate(parse_scenario(RECORDED.encode(), "recorded"), OWN)
    found = survey_of(recorded.entries, "recorded", None, None)
    assert found.downtime_limit_ms == 300
    assert found.bandwidth_bytes_per_s == pytest.approx(100 * MIB, rel=0.1)
    (told,) = forecast(found, (OWN,), draws=2)
    assert told.total_time_ms
    assert told.total_time_ms.p50 == pytest.approx(known(recorded.total_time_ms), rel=0.25)
    assert found.unknown


def shrunken(entry: Entry) -> Entry:
    if not isinstance(entry.event, BandwidthWindow):
        return entry
    window = msgspec.structs.replace(entry.event, saved_bytes=2 * entry.event.sent_bytes)
    return msgspec.structs.replace(entry, event=window)


def test_a_journal_of_pages_that_were_smaller_on_the_wire_says_so_and_memory_moves_faster_than_the_link() -> None:
    recorded = simulate(parse_scenario(RECORDED.encode(), "recorded"), OWN)
    shrunk = [shrunken(entry) for entry in recorded.entries]
    plain, found = (survey_of(entries, "recorded", None, None) for entries in (recorded.entries, shrunk))
    assert found.bandwidth_bytes_per_s == pytest.approx(plain.bandwidth_bytes_per_s, rel=0.001)
    assert found.memory_bytes_per_s == pytest.approx(3 * plain.memory_bytes_per_s, rel=0.001)
    assert any("again be 3.0 times smaller on the wire" in what for what in found.unknown)
    assert not any("on the wire" in what for what in plain.unknown)


def looks_at_bursts() -> tuple[Look, ...]:
    """Every 100 ms one of 50 ms: for a fifth of each second the guest writes 1 GiB/s, and then nothing."""
    found = ((51 << 20) if number % 10 < 2 else 0 for number in range(80))
    return tuple(Look(100 * MS * number, Written(50 * MS, 1.0, size)) for number, size in enumerate(found))


def test_a_guest_in_bursts_that_may_move_in_a_calm_is_told_so_and_the_reason_names_the_calm() -> None:
    bursty = replace(survey(200, 1000), looks=looks_at_bursts(), bandwidth_bytes_per_s=400 * MIB)
    assert bursty.bursts
    assert bursty.bursts.busy_share == pytest.approx(0.2, abs=0.02)
    price = priced(bursty)
    assert price.throttle_percent == 0
    told = reason(bursty, price, 1.0)
    assert told.startswith("It moves in a calm: it rewrites ")
    assert told.endswith("it was seen to write much in 20% of the time, and little in the rest.")
    assert priced(replace(bursty, looks=())).throttle_percent != 0
