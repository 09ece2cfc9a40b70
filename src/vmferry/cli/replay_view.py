"""What `vmferry replay` prints, in 80 columns: the runs, each beside the recorded one, and how sure that is."""

import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from statistics import median

import click
from rich.table import Table

from vmferry.bounds import clean_text
from vmferry.cli.tables import compact_table, terminal
from vmferry.migration.outcome import Outcome
from vmferry.migration.status import MigrationStatus
from vmferry.report.figures import (
    count_text,
    distance_text,
    error_text,
    is_far,
    lost_text,
    ratio_text,
    seconds_text,
    time_text,
)
from vmferry.report.series import RunSeries
from vmferry.study.replay import Replay
from vmferry.study.shadow_truth import ForetoldThrottle
from vmferry.units import NS_PER_MS, PAGE_SIZE_BYTES, format_duration, format_rate, format_size

_WIDTH = 80
_SAME = 0.02
_LIMITED = 0.95
_MUCH_LONGER = 1.2


def show_answers(replay: Replay, runs: Sequence[RunSeries], *, unchanged: bool) -> None:
    """Print the runs, the recorded one first; `unchanged` if the link and the parameters are the recorded ones."""
    remarks = [*_remarks(replay), *_outlasting(runs[1:], replay), *(_how_close(replay, *runs) if unchanged else ())]
    terminal().print(_table(runs))
    for text in ["", *map(partial(_sentence, runs[0]), runs[1:]), "", *remarks]:
        click.echo(textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def show_shadows(shadows: Sequence[ForetoldThrottle]) -> None:
    """Tell how true it was what policies in the shadow of the recorded migration foretold."""
    if not shadows:
        return
    table = compact_table("What was foretold in the shadow", "", "at s", "throttle", "foretold s", "replayed s", "off")
    for each in shadows:
        came = "never" if each.replayed_ms is None else seconds_text(each.replayed_ms)
        off = "" if each.ratio is None else error_text(each.ratio)
        seen = clean_text(each.variant), seconds_text(each.seen_ms), f"{each.throttle_percent} %"
        table.add_row(*seen, seconds_text(each.foretold_ms), came, off)
    click.echo()
    terminal().print(table)
    ratios = [each.ratio for each in shadows if each.ratio is not None]
    if ratios:
        ended = f"{len(ratios)} of {len(shadows)} decisions"
        off = distance_text(median(max(ratio, 1 / ratio) for ratio in ratios))
        click.echo(f"What was foretold is off by {off}, in the median of {ended}.")


def _table(runs: Sequence[RunSeries]) -> Table:
    table = compact_table("", "", "total s", "down", "passes", "max", "sent", "lost")
    table.caption = "down: ms. max: throttle in %. sent: x memory size. lost: guest work in %."
    for run in runs:
        outcome = run.outcome
        table.add_row(
            run.label,
            seconds_text(outcome.total_time_ms) if outcome.completed else outcome.status,
            count_text(outcome.downtime_ms),
            count_text(outcome.iteration_count),
            count_text(outcome.max_throttle_percent),
            ratio_text(outcome.sent_per_memory),
            count_text(outcome.work_lost_percent),
        )
    return table


def _sentence(recorded: RunSeries, run: RunSeries) -> str:
    """Answer the question for one variant."""
    outcome = run.outcome
    time = time_text(outcome.total_time_ms)
    lost = f"the throttle takes {lost_text(outcome, 1)} of the guest's work"
    if outcome.status == MigrationStatus.FAILED:
        return f"{run.label} fails after {time}: {clean_text(outcome.error)}."
    if not outcome.completed:
        return f"{run.label} does not converge: given up after {time} and {outcome.iteration_count} passes; {lost}."
    compared = (
        f", {_compared(total_ms(run.outcome) / total_ms(recorded.outcome))} recorded,"
        if recorded.outcome.completed
        else ""
    )
    downtime = time_text(outcome.downtime_ms)
    return f"{run.label} converges in {time}{compared} with {downtime} of downtime; {lost}."


def total_ms(outcome: Outcome) -> int:
    """Return the total time of a migration that has ended, at least 1 ms."""
    return max(1, outcome.total_time_ms or 0)


def _compared(ratio: float) -> str:
    if abs(ratio - 1) < _SAME:
        return "about as long as"
    if is_far(ratio):
        return f"{ratio:.2g} times as long as"
    return f"{abs(ratio - 1):.0%} {'longer' if ratio > 1 else 'shorter'} than"


def _remarks(replay: Replay) -> Iterator[str]:
    """Say what is taken for granted, and where the journal does not tell enough."""
    scenario, trace = replay.scenario, replay.trace
    rate = scenario.link.shared(scenario.link.rate_bytes_per_s)
    used, written = (format_size(pages * PAGE_SIZE_BYTES) for pages in (trace.used_pages, trace.written_pages))
    yield (
        f"Assumed: the guest uses {used} and rewrites {written} of it at "
        f"{format_rate(trace.pages_per_s * PAGE_SIZE_BYTES)} "
        f"{'or more ' if trace.rate_is_lower_bound else ''}when not throttled; the link has {format_rate(rate)}."
    )
    if trace.rate_is_lower_bound:
        yield (
            "The guest may write faster: every sync found nearly all of what it rewrites dirty. Times and work lost "
            "are lower bounds, and it may not converge at all."
        )
    if replay.times_smaller > 1:
        yield (
            f"On the wire pages were {replay.times_smaller:.1f} times smaller than in memory, and are taken to be so "
            "again: rates and what is sent are told as they are in memory."
        )
    if replay.link_rate_is_lower_bound:
        yield (
            "The link may be faster: max-bandwidth held the migration back, or too little was sent to tell. "
            "Give --rate if you know it."
        )
    limit = scenario.parameters.get("max-bandwidth", 0)
    if isinstance(limit, int) and 0 < limit < rate * _LIMITED:
        yield f"max-bandwidth allows {format_rate(limit)} of it while the guest runs; --max-bandwidth 0 lifts that."


def _outlasting(runs: Sequence[RunSeries], replay: Replay) -> Iterator[str]:
    """Say where the answer rests on what the guest may have done after the recording."""
    labels = [run.label for run in runs if outlasts(run, replay)]
    if labels:
        yield (
            f"The recording holds {format_duration(replay.trace.recorded_ns)} of the guest's CPU time. It runs for "
            f"longer with {', '.join(labels)}; there the recording's later half repeats, and a change of load after "
            "its end is not known."
        )


def outlasts(run: RunSeries, replay: Replay) -> bool:
    """Tell whether a run rests on what the guest may have done after the recording."""
    cpu_ms = total_ms(run.outcome) * (1 - (run.outcome.work_lost_percent or 0) / 100)
    return cpu_ms * NS_PER_MS > _MUCH_LONGER * replay.trace.recorded_ns


def _how_close(replay: Replay, recorded: RunSeries, *replayed: RunSeries) -> Iterator[str]:
    """Tell how far the replay of the recorded settings is from what was recorded."""
    slowed = "" if replay.throttle is None else ", slowed as it was seen to be slowed,"
    for run in replayed:
        if run.label == recorded.variant and run.outcome.completed and recorded.outcome.completed:
            off = error_text(total_ms(run.outcome) / total_ms(recorded.outcome))
            said = f"{run.label} was recorded, and its replay{slowed} is off by {off} in total time"
            yield f"How close this is: {said}."
