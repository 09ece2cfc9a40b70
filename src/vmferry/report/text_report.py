"""Reports of migrations as text of 80 columns: what came out, with which settings, and why the guest was slowed."""

import textwrap
from collections.abc import Iterator, Sequence

from vmferry.bounds import clean_text
from vmferry.migration.outcome import Outcome
from vmferry.report.bars import MEASURES
from vmferry.report.figures import count_text, percent_text, ratio_text, sent_text, time_text
from vmferry.report.runs import by_label
from vmferry.report.series import RunSeries
from vmferry.report.story import Line, headline, shadow_lines, story
from vmferry.report.summary import configuration, costs_of_runs, limits_text, verdict
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
        reports.insert(0, "\n".join([*_wrap(verdict(runs), ""), "", *_answer(runs), "", *_table(runs)]))
    return "\n\n".join(reports)


def _answer(runs: Sequence[RunSeries]) -> Iterator[str]:
    """Tell what each label came to, if some have repeats."""
    if len(by_label(runs)) == len(runs):
        return
    for cost in costs_of_runs(runs):
        yield from _wrap(f"{cost.label}: {cost.completed_count} of {cost.run_count} completed", "")
        for measure in MEASURES:
            yield f"{_INDENT}{measure.heading} {measure.told(cost)}"
    yield "medians of completed runs, and from the least to the greatest"


def _table(runs: Sequence[RunSeries]) -> Iterator[str]:
    yield _GRID.format(*_HEADINGS)
    for run in runs:
        outcome = run.outcome
        yield from _wrap(_name(run), "")
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
            *_wrap(_name(run), ""),
            *_wrap(verdict([run]), _INDENT),
            *_figures(run),
            "",
            "Configuration",
            *_wrap(", ".join(f"{name} {value}" for name, value in configuration([run]).items()), _INDENT),
            "",
            *_timeline(run),
        ]
    )


def _name(run: RunSeries) -> str:
    return f"{run.label}, {run.name}" if run.name else run.label


def _figures(run: RunSeries) -> Iterator[str]:
    outcome = run.outcome
    parts = ", ".join(f"{clean_text(name)} {ms:.1f} ms" for name, ms in outcome.downtime_parts_ms.items())
    yield from _wrap(f"downtime {time_text(outcome.downtime_ms)}{f': {parts}' if parts else ''}", _INDENT)
    iterations, syncs = (count_text(n, UNKNOWN) for n in (outcome.iteration_count, outcome.dirty_sync_count))
    yield f"{_INDENT}iterations {iterations}, dirty syncs {syncs}"
    yield f"{_INDENT}sent {sent_text(outcome)}"
    yield from _wrap(f"throttle up to {percent_text(outcome.max_throttle_percent)}: {_lost(outcome)}", _INDENT)
    if words := limits_text(run):
        yield from _wrap(f"the operator's limits: {words}", _INDENT)
    if run.source:
        yield from _wrap(f"read from {run.source}", _INDENT)
    if run.gaps:
        yield from _wrap("part of the migration is not in the journal; figures of its whole are unknown", _INDENT)


def _lost(outcome: Outcome) -> str:
    if outcome.work_lost_percent is None or outcome.work_lost_vcpu_s is None:
        return "how much of the guest's work was lost is unknown"
    each = " + ".join(f"{lost_s:.1f}" for lost_s in outcome.vcpu_work_lost_s or ())
    sum_text = f"{outcome.work_lost_vcpu_s:.1f} vCPU s"
    return f"{outcome.work_lost_percent:.1f} % of the guest's work lost, {f'{each} = ' if each else ''}{sum_text}"


def _timeline(run: RunSeries) -> Iterator[str]:
    yield headline(run)
    yield from _lines(story(run))
    if run.shadows:
        yield "What a policy that only looked on would have done"
        yield from _lines(shadow_lines(run))


def _lines(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        head = f"{line.time_s:9.1f} s  "
        if len(line.what) >= _REASON_COLUMN - len(head):
            yield from _wrap(f"{line.what}: {line.reason}", head, " " * len(head))
        else:
            head = f"{head}{line.what}".ljust(_REASON_COLUMN)
            yield from _wrap(line.reason, head, " " * _REASON_COLUMN) or [head.rstrip()]


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
