"""Reports of migrations as text of 80 columns: what came out, with which settings, and why the guest was slowed."""

import textwrap
from collections.abc import Iterator, Sequence

from vmferry.perf.journal_runs import clean_text
from vmferry.perf.series import Decision, RunSeries
from vmferry.perf.summary import configuration, verdict
from vmferry.units import format_duration, format_size

WIDTH = 80
_NS_PER_MS = 1_000_000
_INDENT = "  "
_REASON_COLUMN = 25
_HEADINGS = ("", "total time", "downtime", "iterations", "throttle", "sent", "lost")
_GRID = "  {:<11}{:>14}{:>12}{:>12}{:>10}{:>8}{:>8}"


def text_report(runs: Sequence[RunSeries]) -> str:
    """Return the report of one migration, or of several with a table in front."""
    reports = [_report(run) for run in runs]
    if len(runs) > 1:
        reports.insert(0, "\n".join([*_wrap(verdict(runs), ""), "", *_table(runs)]))
    return "\n\n".join(reports)


def _table(runs: Sequence[RunSeries]) -> Iterator[str]:
    yield _GRID.format(*_HEADINGS)
    for run in runs:
        yield from _wrap(run.label, "")
        yield _GRID.format(
            run.ended.status,
            format_duration(run.ended.total_time_ns),
            format_duration(run.ended.downtime_ns),
            run.ended.iteration_count,
            f"{run.ended.max_throttle_percent} %",
            f"{run.sent_per_memory:.2f}",
            f"{run.work_lost_percent:.0f} %",
        )
    yield "throttle: highest; sent: x the guest's memory; lost: of the guest's work"


def _report(run: RunSeries) -> str:
    return "\n".join(
        [
            *_wrap(run.label, ""),
            *_wrap(verdict([run]), _INDENT),
            *_figures(run),
            "",
            "Configuration",
            *_wrap(", ".join(f"{name} {value}" for name, value in configuration([run]).items()), _INDENT),
            "",
            *_timeline(run),
        ]
    )


def _figures(run: RunSeries) -> Iterator[str]:
    ended = run.ended
    parts = (f"{clean_text(name)} {ns / _NS_PER_MS:.1f} ms" for name, ns in ended.downtime_parts_ns.items())
    yield from _wrap(f"downtime {format_duration(ended.downtime_ns)}: {', '.join(parts) or 'no parts'}", _INDENT)
    yield f"{_INDENT}iterations {ended.iteration_count}, dirty syncs {ended.dirty_sync_count}"
    yield f"{_INDENT}sent {format_size(ended.sent_bytes)}, {run.sent_per_memory:.2f} x the guest's memory"
    yield (
        f"{_INDENT}throttle up to {ended.max_throttle_percent} %: {run.work_lost_percent:.1f} % of the guest's work "
        f"lost, {run.work_lost_vcpu_s:.1f} vCPU s"
    )


def _timeline(run: RunSeries) -> Iterator[str]:
    if not run.decisions:
        yield "Nothing was decided about the throttle."
        return
    yield "What was decided"
    for decision in run.decisions:
        head = f"{decision.time_s:9.1f} s  {_sync(decision)}".ljust(_REASON_COLUMN)
        yield from _wrap(decision.reason, head, " " * _REASON_COLUMN)


def _sync(decision: Decision) -> str:
    return f"{'in' if decision.background_sync else 'start of'} {decision.iteration_count}"


def _wrap(text: str, first_indent: str, indent: str | None = None) -> list[str]:
    """Wrap, but not between a number and its `%` nor within `20 -> 30 %`."""
    glued = text.replace(" %", "\xa0%").replace(" -> ", "\xa0->\xa0")
    lines = textwrap.wrap(
        glued,
        WIDTH,
        initial_indent=first_indent,
        subsequent_indent=first_indent if indent is None else indent,
        break_on_hyphens=False,
    )
    return [line.replace("\xa0", " ") for line in lines]
