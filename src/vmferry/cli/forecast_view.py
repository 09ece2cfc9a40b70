"""What `vmferry forecast` prints, in 80 columns."""

import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from vmferry.cli.tables import compact_table
from vmferry.study.forecast import Interval
from vmferry.study.reason import link_of
from vmferry.study.strategies import NO_THROTTLE, POSTCOPY
from vmferry.study.survey import Survey
from vmferry.study.told import Told, label_of
from vmferry.units import format_duration, format_ms, format_rate, format_size

_WIDTH = 80
_ALSO = "  or "
_SATURATED = 0.95
"""A vCPU that wants more of its time than this is as good as always busy."""


def show(console: Console, told: Told) -> None:
    """Print it."""
    for line in _head(told):
        console.print(line)
    console.print(_table(told))
    console.print("chance: of runs that end. Medians; 4 of 5 are to lie within the ranges.\n")
    for line in [*_price_list(told), "", *_unknown(told)]:
        console.print(line)


def _head(told: Told) -> Iterator[str]:
    survey = told.survey
    vcpus = f"{survey.vcpu_count} vCPU{'s' if survey.vcpu_count > 1 else ''}"
    used, memory = format_size(survey.used_bytes), format_size(survey.memory_bytes)
    link = f"{link_of(survey)}, downtime limit {survey.downtime_limit_ms} ms"
    yield from _wrapped(f"{told.name}: {vcpus}, {used} of {memory} used; link {link}.")
    yield from _wrapped(activity(survey))
    yield ""
    yield told.sentence
    yield from _wrapped(told.reason)
    yield ""


def activity(survey: Survey) -> str:
    """Return what it was seen to write; whether it is paused was seen afterwards."""
    if survey.paused and not any(point.distinct_bytes for point in survey.written):
        return "It is paused, and wrote nothing while it was measured."
    curve = ", ".join(
        f"{format_size(point.distinct_bytes)} in {format_duration(point.duration_ns)}" for point in survey.written
    )
    busy = f" Its busiest vCPU wants {survey.demand:.0%} of its time." if survey.demand < _SATURATED else ""
    return f"It is paused now; before, it wrote {curve}." if survey.paused else f"It writes {curve}.{busy}"


def _table(told: Told) -> Table:
    table = compact_table("", "strategy", "chance", "total s", "", "down ms", "lost\nvCPU-s", "sent")
    for each in told.strategies:
        table.add_row(
            label_of(each.strategy, told.survey),
            f"{each.chance:.0%}",
            _middle(each.total_time_ms, 1000),
            _range(each.total_time_ms, 1000),
            _whole_range(each.downtime_ms) or "?",
            _middle(each.work_lost_vcpu_s, 1),
            format_size(round(each.sent_bytes.p50)) if each.sent_bytes else "",
        )
    return table


def _middle(interval: Interval | None, unit: float) -> str:
    return f"{interval.p50 / unit:.3g}" if interval else "?"


def _range(interval: Interval | None, unit: float) -> str:
    return f"{interval.p10 / unit:.3g} to {interval.p90 / unit:.3g}" if interval else ""


def _whole_range(interval: Interval | None) -> str:
    return f"{interval.p10:.0f} to {interval.p90:.0f}" if interval else ""


def _price_list(told: Told) -> Iterator[str]:
    price, survey = told.prices, told.survey
    if price.throttle_percent == 0:
        yield "It converges by itself: nothing has to change."
        return
    (free,) = (each for each in told.strategies if each.strategy == NO_THROTTLE)
    surely = "surely move it" if free.chance else "move it"
    changes = []
    if price.downtime_limit_ms is not None:
        changes.append(f"a downtime limit of {format_ms(price.downtime_limit_ms)}")
    if price.bandwidth_bytes_per_s is not None:
        changes.append(f"a link of {format_rate(price.bandwidth_bytes_per_s)}")
    if any(each.strategy == POSTCOPY for each in told.strategies):
        changes.append("post-copy, where both QEMUs are prepared for it")
    if not changes:
        yield f"No single change would {surely} without slowing it."
    else:
        yield f"What would {surely} without slowing it, one change at a time:"
        yield from _listed(changes)
    if price.throttle_percent is None:
        yield "No throttle makes it converge as things are."
    else:
        held = format_rate(survey.bandwidth_bytes_per_s)
        least = "it has to be slowed by at least" if price.least else "it moves if it is slowed by"
        yield f"As things are, at {held}, {least} {price.throttle_percent} %."
    if not price.least:
        yield "There was no time to look whether less would do."


def _listed(changes: Sequence[str]) -> Iterator[str]:
    for number, change in enumerate(changes):
        yield f"{_ALSO if number else ' ' * len(_ALSO)}{change}"


def _unknown(told: Told) -> Iterator[str]:
    for what in told.unknown:
        yield from _wrapped(f"Not known: {what}.")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False)
