"""What pictures and reports say about migrations in words: verdict, configuration and table."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from vmferry.migration.status import MigrationStatus
from vmferry.perf.journal_runs import clean_text
from vmferry.perf.panels import by_label, median_run
from vmferry.perf.series import RunSeries
from vmferry.units import format_duration, format_size

_NS_PER_MS = 1_000_000

RESULT_COLUMNS: dict[str, Callable[[RunSeries], str]] = {
    "status": lambda run: run.ended.status.value,
    "total time": lambda run: format_duration(run.ended.total_time_ns),
    "downtime": lambda run: format_duration(run.ended.downtime_ns),
    "iterations": lambda run: str(run.ended.iteration_count),
    "max throttle": lambda run: f"{run.ended.max_throttle_percent} %",
    "sent / memory": lambda run: f"{run.sent_per_memory:.2f}",
    "lost to the throttle": lambda run: f"{run.work_lost_percent:.0f} % ({run.work_lost_vcpu_s:.0f} vCPU s)",
}
"""The figures of a run, by the heading of their column."""


def verdict(runs: Sequence[RunSeries]) -> str:
    """Return one sentence that says what came out."""
    groups = by_label(runs)
    unfinished = [run.label for run in runs if run.ended.status is not MigrationStatus.COMPLETED]
    if unfinished and len(runs) > 1:
        labels = ", ".join(dict.fromkeys(unfinished))
        return f"{len(runs) - len(unfinished)} of {len(runs)} migrations completed; not: {labels}."
    if len(groups) == 1:
        return _single_verdict(runs)
    if len({(run.memory_bytes, run.started.vcpu_count) for run in runs}) > 1:
        return f"All {len(runs)} migrations completed; their guests differ in size."
    return _comparison(groups)


def _single_verdict(runs: Sequence[RunSeries]) -> str:
    run = median_run(runs)
    what = "The migration" if len(runs) == 1 else f"The median of {len(runs)} migrations"
    time = format_duration(run.ended.total_time_ns)
    if run.ended.status is not MigrationStatus.COMPLETED:
        reason = clean_text(run.ended.error)
        return f"{what} was {run.ended.status} after {time}{f': {reason}' if reason else ''}."
    return (
        f"{what} completed in {time} with {format_duration(run.ended.downtime_ns)} of downtime; "
        f"the throttle took {run.work_lost_percent:.0f} % of the guest's work."
    )


def _comparison(groups: dict[str, list[RunSeries]]) -> str:
    times = {label: statistics.median(run.total_s for run in repeats) for label, repeats in groups.items()}
    fastest, slowest = min(times, key=times.__getitem__), max(times, key=times.__getitem__)
    if times[fastest] > 0.99 * times[slowest]:
        return f"All took about the same time, {_seconds(times[fastest])}."
    lost = {label: statistics.median(run.work_lost_percent for run in groups[label]) for label in (fastest, slowest)}
    return (
        f"{fastest} is the fastest with {_seconds(times[fastest])}, {slowest} takes {_seconds(times[slowest])}; "
        f"the throttle takes {lost[fastest]:.0f} % of the guest's work with the former and "
        f"{lost[slowest]:.0f} % with the latter."
    )


def figures(run: RunSeries) -> dict[str, Any]:
    """Return all figures of a run for scripts, named as those of a simulation, with its decisions."""
    ended, started = run.ended, run.started
    return {
        "label": run.label,
        "variant": run.variant,
        "status": ended.status,
        "error": ended.error,
        "total_time_ms": ended.total_time_ns // _NS_PER_MS,
        "downtime_ms": ended.downtime_ns // _NS_PER_MS,
        "downtime_parts_ms": {name: ns / _NS_PER_MS for name, ns in ended.downtime_parts_ns.items()},
        "iteration_count": ended.iteration_count,
        "dirty_sync_count": ended.dirty_sync_count,
        "max_throttle_percent": ended.max_throttle_percent,
        "sent_bytes": ended.sent_bytes,
        "memory_bytes": run.memory_bytes,
        "vcpu_count": started.vcpu_count,
        "work_lost_vcpu_s": run.work_lost_vcpu_s,
        "work_lost_percent": run.work_lost_percent,
        "auto_converge": started.auto_converge,
        "parameters": started.parameters,
        "decisions": run.decisions,
    }


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
    yield "guest memory", format_size(run.memory_bytes)
    yield "vCPUs", str(started.vcpu_count)
    yield "auto-converge", "on" if started.auto_converge else "off"
    for name, value in started.parameters.items():
        yield clean_text(name), clean_text({True: "on", False: "off"}[value] if isinstance(value, bool) else str(value))


def _values(values: dict[str, list[str]]) -> str:
    if len(values) == 1:
        return next(iter(values))
    return "; ".join(f"{value} ({', '.join(labels)})" for value, labels in values.items())


def _seconds(time_s: float) -> str:
    return format_duration(round(time_s * 1e9))
