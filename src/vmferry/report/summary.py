"""What pictures and reports say about migrations in words: verdict, figures and configuration."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from vmferry.bounds import clean_text
from vmferry.migration.outcome import Outcome
from vmferry.report.figures import count_text, lost_text, middle, percent_text, ratio_text, spread_text, time_text
from vmferry.report.runs import Run
from vmferry.report.series import RunSeries
from vmferry.report.tradeoff import Cost, costs_of
from vmferry.settings.parameters import PARAMETERS
from vmferry.units import UNKNOWN, exact_duration, format_rate, format_size, told

RESULT_COLUMNS: dict[str, Callable[[Outcome], str]] = {
    "status": lambda outcome: outcome.status,
    "total time": lambda outcome: time_text(outcome.total_time_ms),
    "downtime": lambda outcome: time_text(outcome.downtime_ms),
    "iterations": lambda outcome: count_text(outcome.iteration_count, UNKNOWN),
    "max throttle": lambda outcome: percent_text(outcome.max_throttle_percent),
    "sent / memory": lambda outcome: ratio_text(outcome.sent_per_memory, UNKNOWN),
    "guest's work lost": lost_text,
}
"""The figures of a run, by the heading of their column."""
_SAME = 0.99
_CLOSE = 2


def costs_of_runs(runs: Iterable[Run]) -> list[Cost]:
    """Return what each label costs."""
    return costs_of((run.label, run.outcome) for run in runs)


def verdict(runs: Sequence[Run]) -> str:
    """Return one sentence that says what came out: who is the fastest, how much, at what cost, and who has arrived."""
    costs = costs_of_runs(runs)
    if len(runs) == 1:
        return _of_one(runs[0])
    if len(costs) == 1:
        return _sentence(_counted(costs) + _repeated(costs[0], _taker(runs)))
    return _sentence("; ".join(filter(None, (_comparison(runs, costs), _counted(costs)))))


def _sentence(words: str) -> str:
    """Make a sentence of words, which may begin with a name that is left as it is."""
    begins = words.startswith(("all ", "how long "))
    return f"{words[0].upper() if begins else words[0]}{words[1:]}."


def _of_one(run: Run) -> str:
    outcome = run.outcome
    time = time_text(outcome.total_time_ms)
    reason = clean_text(outcome.error)
    if outcome.status == "error":
        return f"The migration could not be run: {reason}."
    if not outcome.completed:
        return f"The migration was {outcome.status} after {time}{f': {reason}' if reason else ''}."
    lost = _share(outcome.work_lost_percent)
    return (
        f"The migration completed in {time} with {time_text(outcome.downtime_ms)} of downtime; {_taker([run])} {lost}."
    )


def _counted(costs: Sequence[Cost]) -> str:
    """Say how many migrations completed, and which did not."""
    completed, count = sum(cost.completed_count for cost in costs), sum(cost.run_count for cost in costs)
    if completed == count:
        return f"all {count} migrations completed"
    counted = f"{completed} of {count} migrations completed"
    stayed = [f"{cost.label} ({_of_all(cost)})" for cost in costs if cost.completed_count < cost.run_count]
    return f"{counted}, not: {', '.join(stayed)}" if len(costs) > 1 else counted


def _of_all(cost: Cost) -> str:
    return f"{cost.completed_count} of {cost.run_count}"


def _repeated(cost: Cost, taker: str) -> str:
    if not cost.completed_count:
        return f": {clean_text(cost.trouble)}"
    time, downtime = spread_text(cost.total_time_ms, time_text), time_text(middle(cost.downtime_ms))
    lost = _share(middle(cost.work_lost_percent))
    return f", in the median in {time} with {downtime} of downtime; {taker} {lost}"


def _comparison(runs: Sequence[Run], costs: Sequence[Cost]) -> str:
    """Say who is the fastest of those that completed every time; empty if there is nothing to compare."""
    if len({(run.outcome.memory_bytes, run.outcome.vcpu_count) for run in runs if run.outcome.completed}) > 1:
        return "The guests differ in size, so their times are not compared"
    sure = {cost: time for cost in costs if not cost.trouble and (time := middle(cost.total_time_ms)) is not None}
    unknown = [cost.label for cost in costs if cost.completed_count and cost.total_time_ms is None]
    doubt = f"; how long {', '.join(unknown)} took is unknown" if unknown else ""
    if len(sure) < 2:
        alone = "".join(f"Only {cost.label} completed every time, in {time_text(time)}" for cost, time in sure.items())
        return f"{alone}{doubt if alone else doubt.removeprefix('; ')}"
    fastest, slowest = min(sure, key=sure.__getitem__), max(sure, key=sure.__getitem__)
    if sure[fastest] > _SAME * sure[slowest]:
        every = "All" if len(sure) == len(costs) else "Those that completed every time"
        return f"{every} took about the same time, {time_text(sure[fastest])}{doubt}"
    factor = sure[slowest] / max(1, sure[fastest])
    times = f"{factor:.{2 if factor < _CLOSE else 1}f} times as fast as"
    lost = [_share(middle(fastest.work_lost_percent)), _part(middle(slowest.work_lost_percent))]
    return (
        f"{fastest.label} is the fastest with {time_text(sure[fastest])}, {times} "
        f"{slowest.label} with {time_text(sure[slowest])}; "
        f"{_taker(runs)} {lost[0]} with the former, {lost[1]} with the latter{doubt}"
    )


def _share(percent: float | None) -> str:
    return f"{_part(percent)} of the guest's work"


def _part(percent: float | None) -> str:
    return percent_text(percent, "an unknown part")


def _taker(runs: Sequence[Run]) -> str:
    """Name who took work from the guest. If it was watched, all that it lost is known, not only the throttle's part."""
    return "the migration took" if all(run.lost_is_measured for run in runs) else "the throttle took"


def configuration(runs: Sequence[RunSeries]) -> dict[str, str]:
    """Return guest, limits and parameters by name; where the runs differ, which label has which value."""
    settings: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, value in _settings(run):
            labels = settings.setdefault(name, {}).setdefault(value, [])
            if run.label not in labels:
                labels.append(run.label)
    return {name: _values(values) for name, values in settings.items()}


def limits_text(run: RunSeries) -> str:
    """Return the limits that the operator has set, in words; empty if there are none."""
    limits = run.limits
    if limits is None:
        return ""
    words = {
        "finish by": told(limits.deadline_ns, exact_duration, ""),
        "guest's work lost at most": told(limits.max_guest_loss_percent, lambda percent: f"{percent:g} %", "")
        or told(limits.max_guest_loss_ns, lambda ns: f"{exact_duration(ns)} of vCPUs", ""),
        "throttle at most": told(limits.max_throttle_percent, lambda percent: f"{percent} %", ""),
        "downtime at most": told(limits.max_downtime_ms, lambda ms: f"{ms} ms", ""),
    }
    return ", ".join(f"{name} {value}" for name, value in words.items() if value)


def _settings(run: RunSeries) -> Iterator[tuple[str, str]]:
    started = run.started
    yield "guest memory", told(run.outcome.memory_bytes, format_size)
    yield "vCPUs", str(started.vcpu_count)
    if words := limits_text(run):
        yield "operator's limits", words
    yield "auto-converge", "on" if started.auto_converge else "off"
    for name, value in started.parameters.items():
        if value != "":
            yield clean_text(name), clean_text(_value(name, value))


def _value(name: str, value: object) -> str:
    """Return a parameter's value for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    unit = PARAMETERS[name].unit if name in PARAMETERS else ""
    if isinstance(value, int) and unit == "bytes/second":
        return format_rate(value)
    if isinstance(value, int) and unit == "bytes":
        return format_size(value)
    return f"{value} {unit}".strip()


def _values(values: dict[str, list[str]]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in values.items())
