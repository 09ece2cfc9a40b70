"""`vmferry replay`: what a recorded migration would have come to with other settings."""

import textwrap
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import click
import msgspec
from rich.table import Table

from vmferry.bounds import clean_text
from vmferry.cli.files import check_picture
from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.parameter_options import SECRETS, ParameterCommand, given_parameters, parameter_options
from vmferry.cli.pictures import write_picture
from vmferry.cli.policy_options import policy_option, settings_option
from vmferry.cli.tables import compact_table, terminal, warn
from vmferry.cli.types import RATE_WITH_UNIT
from vmferry.cli.variant_options import choose, variants_option
from vmferry.convergence.policies.registry import load_policy
from vmferry.convergence.variants import POLICY, POLICY_SETTINGS
from vmferry.errors import UsageError
from vmferry.migration.events import RecordedBy
from vmferry.migration.journal import Entry, read_migration
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
from vmferry.report.journal_runs import run_series
from vmferry.report.records import RecordedRun, recorded_run
from vmferry.report.series import RunSeries
from vmferry.simulation.run import SimulationResult, simulate
from vmferry.study.replay import Replay, read_replay
from vmferry.study.shadow_truth import ForetoldThrottle, foretold_by_shadows
from vmferry.units import NS_PER_MS, PAGE_SIZE_BYTES, format_duration, format_rate, format_size

_FILE = click.Path(dir_okay=False, path_type=Path)
_WIDTH = 80
_SAME = 0.02
_LIKE = 0.1
_NO_ANSWER = "the journal tells too little of the guest to say what else would have been"
_LIMITED = 0.95
_MUCH_LONGER = 1.2


class ReplayedRun(RecordedRun, frozen=True, kw_only=True):
    """The recorded migration, which comes first, or what it would have come to."""

    write_rate_is_lower_bound: bool
    """True if the guest may write faster than is known."""
    link_rate_is_lower_bound: bool
    """True if the link may be faster than is known."""
    outlasts_recording: bool
    """True if the answer rests on what the guest may have done after the recording."""
    foretold: list[ForetoldThrottle]
    """Of the recorded migration: what policies in its shadow foretold, and what came of that. Else none."""


@click.command("replay", cls=ParameterCommand, short_help="What if? A recorded guest under another policy or link.")
@click.argument("journal", type=_FILE)
@variants_option
@policy_option("Only this policy; repeatable.", repeatable=True)
@settings_option
@click.option("--migration", type=click.IntRange(1), help="Which of several in the journal; the last if left out.")
@click.option("--rate", type=RATE_WITH_UNIT, help="Another link, such as 10Gbit/s.")
@click.option("--latency", help="Another time one way, such as 2ms.")
@click.option("--jitter", type=float, help="Another standard deviation of the rate, as a share, such as 0.3.")
@json_option("Print one JSON object for each run, the recorded one first.", ReplayedRun)
@click.option("--picture", type=_FILE, callback=check_picture, help="Draw the runs: FILE.svg, or FILE.html to explore.")
@parameter_options("background-sync", "cpu-responsive-throttle", *SECRETS, POLICY, POLICY_SETTINGS)
@click.pass_context
def command(
    context: click.Context,
    /,
    journal: Path,
    variants: tuple[str, ...],
    policies: tuple[str, ...],
    settings: tuple[str, ...],
    migration: int | None,
    rate: int | None,
    latency: str | None,
    jitter: float | None,
    as_json: bool,
    picture: Path | None,
    **parameters: object,
) -> None:
    """Would the recorded guest have converged with another variant, link or parameter, how fast, and at what cost?

    The guest that a JOURNAL tells of is simulated: as many pages are dirtied in as much CPU time. Link and parameters
    are the recorded ones where none are given.
    """
    if rate == 0:
        raise UsageError("--rate is 0; give a rate such as 10Gbit/s")
    recorded = read_migration(journal, migration, warn)
    where = clean_text(str(journal))
    link = {"rate": rate, "latency": latency, "jitter": jitter}
    changed_link = {name: str(value) for name, value in link.items() if value is not None}
    changed_parameters = given_parameters(parameters)
    runs = [_recorded_series(recorded.entries, where)]
    for policy in policies:
        load_policy(policy)  # it may be the one that has decided
    as_recorded = read_replay(recorded.entries, where, {}, {}).as_recorded()
    _require_likeness(runs[0], as_recorded, where)
    replay = read_replay(recorded.entries, where, changed_parameters, changed_link)
    [scenario] = choose([replay.scenario], variants, policies, settings)
    unchanged = not changed_link and not changed_parameters
    results = [
        as_recorded if unchanged and variant == runs[0].variant else simulate(scenario, variant)
        for variant in scenario.variants
    ]
    runs += [run_series(result.entries, variant) for result, variant in zip(results, scenario.variants, strict=True)]
    shadows = list(foretold_by_shadows(replay, recorded.entries)) if unchanged else []
    if picture:
        write_picture(picture, f"What if: {clean_text(journal.name)}", runs)
    if as_json:
        _print_json(replay, runs, shadows)
    else:
        which = f", migration {recorded.number} of {recorded.count}" if recorded.count > 1 else ""
        click.echo(f"{where}{which}: recorded with {runs[0].variant}\n")
        _print_answers(replay, runs, unchanged=unchanged)
        _print_shadows(shadows)
    context.exit(1 if any(result.policy_broken for result in results) else 0)


def _print_json(replay: Replay, runs: Sequence[RunSeries], shadows: Sequence[ForetoldThrottle]) -> None:
    for run in runs:
        told = ReplayedRun(
            **msgspec.structs.asdict(recorded_run(run)),
            write_rate_is_lower_bound=replay.trace.rate_is_lower_bound,
            link_rate_is_lower_bound=replay.link_rate_is_lower_bound,
            outlasts_recording=run is not runs[0] and _outlasts(run, replay),
            foretold=list(shadows) if run is runs[0] else [],
        )
        print_record(told)


def _print_answers(replay: Replay, runs: Sequence[RunSeries], *, unchanged: bool) -> None:
    remarks = [*_remarks(replay), *_outlasting(runs[1:], replay), *(_how_close(replay, *runs) if unchanged else ())]
    terminal().print(_table(runs))
    for text in ["", *map(partial(_sentence, runs[0]), runs[1:]), "", *remarks]:
        click.echo(textwrap.fill(text, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def _print_shadows(shadows: Sequence[ForetoldThrottle]) -> None:
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


def _recorded_series(entries: Sequence[Entry], where: str) -> RunSeries:
    try:
        return run_series(entries, "recorded")
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _require_likeness(recorded: RunSeries, replayed: SimulationResult, where: str) -> None:
    """Raise UsageError if the replay of the recorded settings shows that the journal does not tell enough of the guest.

    What the VM itself has recorded is replayed as well as it goes, for that is told beside it.
    """
    if recorded.gaps:
        raise UsageError(f"{where}: part of the migration is not in the journal, so it cannot be replayed")
    recorded_ms, replayed_ms = _total_ms(recorded.outcome), _total_ms(replayed)
    if not recorded.outcome.completed:
        if replayed.completed and replayed_ms < recorded_ms * (1 - _LIKE):
            said = (
                f"it had not converged after {time_text(recorded_ms)}, but replayed it does in {time_text(replayed_ms)}"
            )
            raise UsageError(f"{where}: {said}; {_NO_ANSWER}")
        return
    unlike = not replayed.completed or abs(replayed_ms - recorded_ms) > recorded_ms * _LIKE
    if unlike and recorded.started.recorded_by is not RecordedBy.VM:
        said = f"it took {time_text(recorded_ms)}, but replayed it is {replayed.status} after {time_text(replayed_ms)}"
        raise UsageError(f"{where}: {said}; {_NO_ANSWER}")


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
        f", {_compared(_total_ms(run.outcome) / _total_ms(recorded.outcome))} recorded,"
        if recorded.outcome.completed
        else ""
    )
    downtime = time_text(outcome.downtime_ms)
    return f"{run.label} converges in {time}{compared} with {downtime} of downtime; {lost}."


def _total_ms(outcome: Outcome) -> int:
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
    page_bytes = PAGE_SIZE_BYTES
    rate = scenario.link.shared(scenario.link.rate_bytes_per_s)
    yield (
        f"Assumed: the guest uses {format_size(trace.used_pages * page_bytes)} and rewrites "
        f"{format_size(trace.written_pages * page_bytes)} of it at {format_rate(trace.pages_per_s * page_bytes)} "
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
    labels = [run.label for run in runs if _outlasts(run, replay)]
    if labels:
        yield (
            f"The recording holds {format_duration(replay.trace.recorded_ns)} of the guest's CPU time. It runs for "
            f"longer with {', '.join(labels)}; there the recording's later half repeats, and a change of load after "
            "its end is not known."
        )


def _outlasts(run: RunSeries, replay: Replay) -> bool:
    cpu_ms = _total_ms(run.outcome) * (1 - (run.outcome.work_lost_percent or 0) / 100)
    return cpu_ms * NS_PER_MS > _MUCH_LONGER * replay.trace.recorded_ns


def _how_close(replay: Replay, recorded: RunSeries, *replayed: RunSeries) -> Iterator[str]:
    """Tell how far the replay of the recorded settings is from what was recorded."""
    slowed = "" if replay.throttle is None else ", slowed as it was seen to be slowed,"
    for run in replayed:
        if run.label == recorded.variant and run.outcome.completed and recorded.outcome.completed:
            off = error_text(_total_ms(run.outcome) / _total_ms(recorded.outcome))
            said = f"{run.label} was recorded, and its replay{slowed} is off by {off} in total time"
            yield f"How close this is: {said}."
