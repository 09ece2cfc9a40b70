"""`vmferry watch`: show a migration that someone else began, without touching it."""

from pathlib import Path

import click

from vmferry.cli.interrupts import cancelled_by_signals, told_as
from vmferry.cli.journal_option import journal_option, open_journal
from vmferry.cli.json_option import json_option
from vmferry.cli.monitor_option import monitor_options
from vmferry.cli.policy_options import named_policy, policy_settings
from vmferry.cli.progress import exit_code_of
from vmferry.cli.types import DURATION_MS
from vmferry.cli.views import open_view
from vmferry.client.monitor import open_monitor
from vmferry.clock import MonotonicClock
from vmferry.control.awaiting import await_migration
from vmferry.control.looking_on import look_on
from vmferry.control.migration_order import with_goals
from vmferry.control.ports import Ports
from vmferry.convergence.limits import Limits
from vmferry.convergence.variants import ALL_VARIANTS, Variant, full_name
from vmferry.errors import UsageError
from vmferry.migration.journal import CourseJournal, TeeJournal
from vmferry.report.ended_line import EndedLine
from vmferry.report.journal_runs import run_series
from vmferry.report.lines import LINES
from vmferry.units import NS_PER_MS


@click.command("watch", short_help="Show a migration that someone else began, without touching it.")
@monitor_options
@click.option("--wait", is_flag=True, help="Wait until a migration begins.")
@click.option("--shadow", metavar="VARIANT|POLICY",
              help="Tell and record what this would decide; nothing of it is done.")  # fmt: skip
@click.option("--set", "settings", multiple=True, metavar="policy.NAME=VALUE",
              help="A setting of the policy in the shadow; repeatable.")  # fmt: skip
@click.option("--finish-by", "--deadline", "finish_by", type=DURATION_MS,
              help="How long the migration may take: tells how near that is, and the shadow plans for it.")  # fmt: skip
@journal_option
@json_option("Print what happens as it happens, one JSON object a line (docs/json.md).", *LINES, EndedLine)
@click.pass_context
def command(
    context: click.Context,
    /,
    address: str,
    wait: bool,
    shadow: str | None,
    settings: tuple[str, ...],
    finish_by: int | None,
    journal: Path | None,
    as_json: bool,
) -> None:
    """Show how the migration of a VM goes, ours or QEMU's, until it ends.

    The monitor is only asked. Ctrl-C ends watching, and the migration goes on.
    """
    limits = Limits(deadline_ns=None if finish_by is None else finish_by * NS_PER_MS)
    limits.check()
    variant = _shadow(shadow, settings)
    if variant:
        variant = with_goals(variant, limits, None)
    clock, course = MonotonicClock(), CourseJournal()
    with cancelled_by_signals() as cancel, open_view(clock, as_lines=as_json) as view:
        with (
            told_as("interrupted", cancel),
            open_monitor(address, while_waiting=cancel.check) as monitor,
            open_journal(journal) as record,
        ):
            await_migration(monitor, clock, cancel, wait=wait)
            limit_ms = monitor.execute("query-migrate-parameters")["downtime-limit"]
            with (
                told_as("stopped watching; the migration goes on", cancel),
                view.following(limit_ms, finish_by) as (watch, tell),
            ):
                records = TeeJournal([record, course, view.journal])
                ports = Ports(monitor, clock, cancel, tell, tell)
                result = look_on(ports, records, watch, shadow=variant, limits=limits)
        view.end(result, run_series(course.entries, "").outcome)
    context.exit(exit_code_of(result))


def _shadow(name: str | None, settings: tuple[str, ...]) -> Variant | None:
    if name is None:
        if policy_settings(settings):
            raise UsageError("--set sets the policy that --shadow names; give that, too")
        return None
    is_variant = full_name(name) in ALL_VARIANTS and not settings
    return named_policy(None, name, ()) if is_variant else named_policy(name, None, settings)
