"""Whether each limit of a migration was kept, once it has ended."""

from collections.abc import Iterator
from dataclasses import replace

from vmferry.control.asking.result import Result
from vmferry.convergence.limit_watch import Spent, Verdict, judge
from vmferry.convergence.limits import Limits, OnLimit
from vmferry.units import format_ms


def verdicts_on(result: Result, limits: Limits, spent: Spent, remark: str) -> Iterator[Verdict]:
    """Yield of every limit whether it was kept; `remark` is what there is to add on the downtime."""
    moved = limits.on_limit is OnLimit.SWITCHOVER
    for verdict in judge(limits, spent):
        yield replace(verdict, obeyed=True) if verdict.kept is False and moved else verdict
    throttle = result.max_throttle_percent
    if limits.max_throttle_percent is not None and throttle is not None:
        yield Verdict.of("max throttle", throttle, limits.max_throttle_percent, lambda percent: f"{percent:g} %")
    if limits.max_downtime_ms is not None and result.completed:
        yield _on_downtime(result.last.downtime_ms, limits.max_downtime_ms, remark)


def _on_downtime(downtime_ms: int | None, allowed_ms: int, remark: str) -> Verdict:
    if downtime_ms is None:
        return Verdict("max downtime", None, f"not told, {format_ms(allowed_ms)} allowed{remark}")
    verdict = Verdict.of("max downtime", downtime_ms, allowed_ms, format_ms)
    return replace(verdict, text=verdict.text + remark)
