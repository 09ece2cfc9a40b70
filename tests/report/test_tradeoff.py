"""What ways to migrate cost, which of them no other beats, and how that is shown."""

import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from vmferry.cli.comparison_table import print_comparison
from vmferry.convergence.variants import ALL_VARIANTS
from vmferry.migration.outcome import Outcome
from vmferry.report.tradeoff import Cost, costs_of, sentence, unbeaten
from vmferry.report.tradeoff_plot import tradeoff_plot
from vmferry.simulation.run import SimulationResult

LABELS = [f"way {number}" for number in range(8)]
LOOKS = {label: number for number, label in enumerate(LABELS)}


def moved(total_ms: int, lost_vcpu_s: float = 0.0, downtime_ms: int = 0) -> Outcome:
    return Outcome(
        status="completed",
        total_time_ms=total_ms,
        downtime_ms=downtime_ms,
        vcpu_count=4,
        work_lost_vcpu_s=lost_vcpu_s,
        work_lost_percent=1.0,
        max_throttle_percent=20,
    )


def stayed(error: str = "") -> Outcome:
    return Outcome(status="cancelled", error=error, total_time_ms=5, downtime_ms=0, vcpu_count=4, work_lost_vcpu_s=0.0)


def labels(costs: list[Cost]) -> list[str]:
    return [cost.label for cost in costs]


def test_the_stop_costs_work_as_the_throttle_does() -> None:
    (cost,) = costs_of([("a", moved(9000, lost_vcpu_s=1.5, downtime_ms=2000))])
    assert cost.kept_vcpu_s is not None
    assert cost.kept_vcpu_s.median == 1.5 + 4 * 2
    assert cost.pair == (9000, 9.5)


def test_repeats_are_told_by_their_medians() -> None:
    (cost,) = costs_of([("a", moved(total, lost)) for total, lost in ((1, 30.0), (9, 10.0), (2, 20.0))])
    assert cost.pair == (2, 20.0)


def test_what_does_not_move_the_guest_every_time_is_compared_with_nothing() -> None:
    costs = costs_of([("a", moved(9, 9.0)), ("b", moved(1)), ("b", stayed("it was too slow")), ("c", stayed())])
    assert labels(unbeaten(costs)) == ["a"]
    assert [cost.trouble for cost in costs] == ["", "moved 1 of 2 times: it was too slow", "cancelled"]
    assert costs[2].total_time_ms is None
    assert sentence(costs) == ""


def test_what_is_not_known_is_compared_with_nothing() -> None:
    unknown = Outcome(status="completed", total_time_ms=1, downtime_ms=1, vcpu_count=4)
    costs = costs_of([("a", unknown), ("b", moved(9)), ("c", moved(8, 5.0))])
    assert labels(unbeaten(costs)) == ["c", "b"]
    assert sentence(costs) == "No other is both faster and gentler than these: c, b."


pairs = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=2, max_size=len(LABELS))


@given(pairs)
def test_every_way_is_either_unbeaten_or_beaten_by_one_that_is(pairs: list[tuple[int, int]]) -> None:
    costs = costs_of(zip(LABELS, (moved(*pair) for pair in pairs), strict=False))
    best = unbeaten(costs)
    assert best == sorted(best, key=lambda cost: cost.pair)
    for cost in costs:
        beaten = any(
            other.pair[0] <= cost.pair[0] and other.pair[1] <= cost.pair[1] and other.pair != cost.pair
            for other in best
        )
        assert beaten == (cost not in best)


@given(pairs)
def test_the_picture_has_one_numbered_point_for_each_way_inside_of_its_frame(pairs: list[tuple[int, int]]) -> None:
    costs = costs_of(zip(LABELS, (moved(*pair) for pair in pairs), strict=False))
    parts = ET.fromstring(f"<svg>{''.join(tradeoff_plot(costs, LOOKS).parts)}</svg>")
    circles = parts.findall("circle")
    assert len(circles) == len(costs)
    best = unbeaten(costs)
    for cost, circle in zip(costs, circles, strict=True):
        assert circle.get("class") == f"{'peak' if cost in best else 'ring'} k{LOOKS[cost.label]}"
        assert 0 <= float(circle.get("cx", "").removesuffix("%")) <= 100
        assert 24 <= float(circle.get("cy", "")) <= 284
    numbers = [text.text for text in parts.findall("text") if text.get("text-anchor") == "middle"]
    assert [number for number in numbers if number and number.isdigit()] == [str(n) for n in range(1, len(costs) + 1)]


def test_what_did_not_move_is_in_no_plot() -> None:
    costs = costs_of([("way 0", moved(9)), ("way 1", stayed()), ("way 2", moved(8, 5.0))])
    parts = "".join(tradeoff_plot(costs, LOOKS).parts)
    assert parts.count("<circle") == 2
    assert "way 1" not in parts


def test_the_table_of_all_variants_fits_80_columns() -> None:
    outcome = moved(1_200_000, 19_199.0, 99_999)
    figures = {name: getattr(outcome, name) for name in Outcome.__struct_fields__}
    results = [
        SimulationResult(**figures, scenario="wide", variant=variant, seed=0, entries=[]) for variant in ALL_VARIANTS
    ]
    console = Console(width=80, highlight=False, markup=False)
    with console.capture() as captured:
        print_comparison(console, results)
    lines = captured.get().splitlines()
    assert not any("…" in line for line in lines)
    assert sum(bool(re.search(r" 1200\.0 ", line)) for line in lines) == len(ALL_VARIANTS)
    assert "*: no other is both faster and gentler." in " ".join(lines)
