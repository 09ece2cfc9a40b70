"""What pictures and reports say about migrations in words: verdict, configuration and table."""

from collections.abc import Callable, Iterable, Sequence

from vmferry.report.figures import count_text, lost_text, median, percent_text, ratio_text, time_text
from vmferry.report.journal_runs import clean_text
from vmferry.report.panels import by_label
from vmferry.report.series import RunSeries
from vmferry.units import UNKNOWN, format_size, told

RESULT_COLUMNS: dict[str, Callable[[RunSeries], str]] = {
    "status": lambda run: run.outcome.status,
    "total time": lambda run: time_text(run.outcome.total_time_ms),
    "downtime": lambda run: time_text(run.outcome.downtime_ms),
    "iterations": lambda run: count_text(run.outcome.iteration_count, UNKNOWN),
    "max throttle": lambda run: percent_text(run.outcome.max_throttle_percent),
    "sent / memory": lambda run: ratio_text(run.outcome.sent_per_memory, UNKNOWN),
    "guest work lost": lambda run: lost_text(run.outcome),
}
"""The figures of a run, by the heading of their column."""


def verdict(runs: Sequence[RunSeries]) -> str:
    """Return one sentence that says what came out."""
    groups = by_label(runs)
    unfinished = [run.label for run in runs if not run.outcome.completed]
    if unfinished and len(runs) > 1:
        labels = ", ".join(dict.fromkeys(unfinished))
        return f"{len(runs) - len(unfinished)} of {len(runs)} migrations completed; not: {labels}."
    if len(groups) == 1:
        return _single_verdict(runs)
    if len({(run.outcome.memory_bytes, run.outcome.vcpu_count) for run in runs}) > 1:
        return f"All {len(runs)} migrations completed; their guests differ in size."
    return _comparison(groups)


def _single_verdict(runs: Sequence[RunSeries]) -> str:
    outcomes = [run.outcome for run in runs]
    time = time_text(median(each.total_time_ms for each in outcomes))
    if not outcomes[0].completed:
        reason = clean_text(outcomes[0].error)
        return f"The migration was {outcomes[0].status} after {time}{f': {reason}' if reason else ''}."
    what = "The migration" if len(runs) == 1 else f"The median of {len(runs)} migrations"
    downtime = time_text(median(each.downtime_ms for each in outcomes))
    return f"{what} completed in {time} with {downtime} of downtime; {_lost(runs)}."


def _lost(runs: Sequence[RunSeries]) -> str:
    lost = median(run.outcome.work_lost_percent for run in runs)
    if lost is None:
        return "how much of its work the guest lost is unknown"
    return f"{_taker(runs)} {lost:.0f} % of the guest's work"


def _taker(runs: Sequence[RunSeries]) -> str:
    """Name who took work from the guest. If it was watched, all that it lost is known, not only the throttle's part."""
    return "the migration took" if all(run.measured_pages_per_s for run in runs) else "the throttle took"


def _comparison(groups: dict[str, list[RunSeries]]) -> str:
    medians = {label: median(run.outcome.total_time_ms for run in repeats) for label, repeats in groups.items()}
    times = {label: time_ms for label, time_ms in medians.items() if time_ms is not None}
    if len(times) < len(groups):
        return f"All completed; how long {', '.join(medians.keys() - times.keys())} took is unknown."
    fastest, slowest = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    if times[fastest] > 0.99 * times[slowest]:
        return f"All took about the same time, {time_text(times[fastest])}."
    lost = {label: median(run.outcome.work_lost_percent for run in groups[label]) for label in (fastest, slowest)}
    return (
        f"{fastest} is the fastest with {time_text(times[fastest])}, {slowest} takes {time_text(times[slowest])}; "
        f"{_taker([*groups[fastest], *groups[slowest]])} {percent_text(lost[fastest])} of the guest's work with the "
        f"former and {percent_text(lost[slowest])} with the latter."
    )


def configuration(runs: Sequence[RunSeries]) -> dict[str, str]:
    """Return guest and parameters by name; where the runs differ, which label has which value."""
    settings: dict[str, dict[str, list[str]]] = {}
    for run in runs:
        for name, value in _settings(run):
            labels = settings.setdefault(name, {}).setdefault(value, [])
            if run.label not in labels:
                labels.append(run.label)
    return {name: _values(values) for name, values in settings.items()}


def _settings(run: RunSeries) -> Iterable[tuple[str, str]]:
    started = run.started
    yield "guest memory", told(run.outcome.memory_bytes, format_size)
    yield "vCPUs", str(started.vcpu_count)
    yield "auto-converge", "on" if started.auto_converge else "off"
    for name, value in started.parameters.items():
        yield clean_text(name), clean_text({True: "on", False: "off"}[value] if isinstance(value, bool) else str(value))


def _values(values: dict[str, list[str]]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in values.items())
