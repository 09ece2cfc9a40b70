"""Reports of migrations as text of 80 columns: what came out, with which settings, and why the guest was slowed."""

import textwrap
from collections.abc import Iterator, Sequence
from itertools import groupby

from vmferry.migration.outcome import Outcome
from vmferry.report.figures import count_text, percent_text, ratio_text, sent_text, time_text
from vmferry.report.journal_runs import clean_text
from vmferry.report.series import Decision, RunSeries
from vmferry.report.summary import configuration, verdict
from vmferry.units import UNKNOWN

WIDTH = 80
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
        outcome = run.outcome
        yield from _wrap(run.label, "")
        yield _GRID.format(
            outcome.status,
            time_text(outcome.total_time_ms),
            time_text(outcome.downtime_ms),
            count_text(outcome.iteration_count),
            percent_text(outcome.max_throttle_percent),
            ratio_text(outcome.sent_per_memory),
            percent_text(outcome.work_lost_percent),
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
            *_shadows(run),
        ]
    )


def _figures(run: RunSeries) -> Iterator[str]:
    outcome = run.outcome
    parts = ", ".join(f"{clean_text(name)} {ms:.1f} ms" for name, ms in outcome.downtime_parts_ms.items())
    yield from _wrap(f"downtime {time_text(outcome.downtime_ms)}{f': {parts}' if parts else ''}", _INDENT)
    iterations, syncs = (count_text(n, UNKNOWN) for n in (outcome.iteration_count, outcome.dirty_sync_count))
    yield f"{_INDENT}iterations {iterations}, dirty syncs {syncs}"
    yield f"{_INDENT}sent {sent_text(outcome)}"
    yield from _wrap(f"throttle up to {percent_text(outcome.max_throttle_percent)}: {_lost(outcome)}", _INDENT)
    if run.gaps:
        yield from _wrap("part of the migration is not in the journal; figures of its whole are unknown", _INDENT)


def _lost(outcome: Outcome) -> str:
    if outcome.work_lost_percent is None or outcome.work_lost_vcpu_s is None:
        return "how much of the guest's work was lost is unknown"
    each = " + ".join(f"{lost_s:.1f}" for lost_s in outcome.vcpu_work_lost_s or ())
    sum_text = f"{outcome.work_lost_vcpu_s:.1f} vCPU s"
    return f"{outcome.work_lost_percent:.1f} % of the guest's work lost, {f'{each} = ' if each else ''}{sum_text}"


def _timeline(run: RunSeries) -> Iterator[str]:
    if run.decisions is None:
        yield from _wrap("What was decided is unknown: the VM decided by itself. The throttle that was seen", "")
        for percent, points in groupby(run.throttle_percent.points(), key=lambda point: point[1]):
            yield f"{next(points)[0]:9.1f} s  {percent:.0f} %"
        return
    if not run.decisions:
        yield "Nothing was decided about the throttle."
        return
    yield "What was decided"
    for decision in run.decisions:
        head = f"{decision.time_s:9.1f} s  {_sync(decision)}".ljust(_REASON_COLUMN)
        yield from _wrap(decision.reason, head, " " * _REASON_COLUMN)


def _shadows(run: RunSeries) -> Iterator[str]:
    if run.shadows:
        yield "What a policy that only looked on would have done"
    for shadow in run.shadows:
        head = f"{shadow.time_s:9.1f} s  "
        yield from _wrap(f"{shadow.variant}: {shadow.reason}", head, " " * len(head))


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
