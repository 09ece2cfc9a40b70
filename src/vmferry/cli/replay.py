"""`vmferry replay`: what a recorded migration would have come to with other settings."""

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from vmferry.bounds import clean_text
from vmferry.cli.files import check_picture
from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.parameter_options import SECRETS, ParameterCommand, given_parameters, parameter_options
from vmferry.cli.pictures import write_picture
from vmferry.cli.policy_options import policy_option, settings_option
from vmferry.cli.replay_view import outlasts, show_answers, show_shadows, total_ms
from vmferry.cli.tables import warn
from vmferry.cli.types import RATE_WITH_UNIT
from vmferry.cli.variant_options import choose, variants_option
from vmferry.convergence.policies.registry import load_policy
from vmferry.convergence.variants import POLICY, POLICY_SETTINGS
from vmferry.errors import UsageError
from vmferry.migration.events import RecordedBy
from vmferry.migration.journal import Entry, read_migration
from vmferry.report.figures import time_text
from vmferry.report.journal_runs import run_series
from vmferry.report.records import RecordedRun, recorded_run
from vmferry.report.series import RunSeries
from vmferry.simulation.run import SimulationResult, simulate
from vmferry.study.replay import Replay, read_replay
from vmferry.study.shadow_truth import ForetoldThrottle, foretold_by_shadows

_FILE = click.Path(dir_okay=False, path_type=Path)
_LIKE = 0.1
_NO_ANSWER = "the journal tells too little of the guest to say what else would have been"


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
        show_answers(replay, runs, unchanged=unchanged)
        show_shadows(shadows)
    context.exit(1 if any(result.policy_broken for result in results) else 0)


def _print_json(replay: Replay, runs: Sequence[RunSeries], shadows: Sequence[ForetoldThrottle]) -> None:
    for run in runs:
        told = ReplayedRun(
            **msgspec.structs.asdict(recorded_run(run)),
            write_rate_is_lower_bound=replay.trace.rate_is_lower_bound,
            link_rate_is_lower_bound=replay.link_rate_is_lower_bound,
            outlasts_recording=run is not runs[0] and outlasts(run, replay),
            foretold=list(shadows) if run is runs[0] else [],
        )
        print_record(told)


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
    recorded_ms, replayed_ms = total_ms(recorded.outcome), total_ms(replayed)
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
