"""`vmferry migrate`: move a running VM to another host, and show how it goes."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import click

from vmferry.cli.interrupts import cancelled_by_signals, told_as
from vmferry.cli.journal_option import journal_option, open_journal
from vmferry.cli.json_option import json_option
from vmferry.cli.limit_options import limit_options
from vmferry.cli.monitor_option import monitor_options
from vmferry.cli.parameter_options import ParameterCommand, given_parameters, parameter_options
from vmferry.cli.policy_options import named_policy, policy_option, settings_option
from vmferry.cli.progress import exit_code_of
from vmferry.cli.types import DURATION_MS
from vmferry.cli.views import open_view
from vmferry.client.monitor import Monitor, open_monitor
from vmferry.clock import MonotonicClock
from vmferry.control.arriving.destination import Destination
from vmferry.control.asking.sensors import WINDOW_MS
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.control.slowing.actuators import MEANS
from vmferry.convergence.limits import Limits
from vmferry.convergence.policies.planned_settings import Pace
from vmferry.convergence.variants import ALL_VARIANTS, SHORT_NAMES
from vmferry.errors import UsageError
from vmferry.migration.journal import CourseJournal, TeeJournal
from vmferry.report.ended_line import EndedLine
from vmferry.report.journal_runs import run_series
from vmferry.report.lines import LINES
from vmferry.units import NS_PER_MS


@click.command("migrate", cls=ParameterCommand, short_help="Move a running VM to another host.")
@click.argument("uri", required=False)
@monitor_options
@click.option("--variant", type=click.Choice([*ALL_VARIANTS, *SHORT_NAMES]), metavar="NAME",
              help=f"Named way to make the guest converge: {', '.join(ALL_VARIANTS)}. Of QEMU's VMs the default is "
              "'planned'; 'original' leaves it to QEMU's own auto-converge.")  # fmt: skip
@policy_option("What decides how the guest is made to converge; a VM of ours must know it (`vmferry vm --policy`).")
@settings_option
@click.option("--auto-converge/--no-auto-converge", default=True, show_default=True,
              help="Slow the guest down if it does not converge; with no- nothing slows it.")  # fmt: skip
@limit_options
@click.option("--interval", type=DURATION_MS,
              help=f"Of QEMU's VMs: how long each measurement lasts. [default: {WINDOW_MS}ms]")  # fmt: skip
@click.option("--destination-qmp", metavar="ADDRESS",
              help="The destination's monitor, to see that it waits, and that the guest arrives.")  # fmt: skip
@click.option("--hand-over-timeout", type=DURATION_MS,
              help="Of QEMU's VMs: how long the other side may hold the stopped guest. "
              "[default: 10s and 2 x downtime-limit]")  # fmt: skip
@click.option("--channels", type=click.IntRange(0, 255),
              help="Connections that carry pages beside the first (multifd), 0 for none; of QEMU's VMs on both sides, "
              "which needs --destination-qmp.")  # fmt: skip
@click.option("--compression", metavar="KIND", help="How these compress pages, such as none, zlib or zstd.")
@click.option("--attach", is_flag=True, help="Steer a migration that runs already; leave out URI.")
@click.option("--wait", is_flag=True, help="With --attach: wait until a migration begins.")
@click.option("--throttle-by", type=click.Choice(MEANS), help="Of QEMU's VMs: how to slow them; else what works.")
@journal_option
@json_option("Print one JSON object at the end instead of tables (docs/json.md).", EndedLine)
@json_option("Print what happens as it happens, one JSON object a line.", *LINES, EndedLine, name="--json-lines")
@parameter_options()
@click.pass_context
def command(
    context: click.Context,
    /,
    uri: str | None,
    address: str,
    variant: str | None,
    policy: str | None,
    settings: tuple[str, ...],
    auto_converge: bool,
    limits: Limits,
    pace: Pace | None,
    interval: int | None,
    destination_qmp: str | None,
    hand_over_timeout: int | None,
    channels: int | None,
    compression: str | None,
    attach: bool,
    wait: bool,
    throttle_by: str | None,
    journal: Path | None,
    as_json: bool,
    json_lines: bool,
    **parameters: object,
) -> None:
    """Migrate the VM behind a monitor to URI, such as tcp:otherhost:4444 or unix:/run/in.sock.

    The VM may be one of ours or stock QEMU's (docs/qemu.md). A VM of QEMU is made to converge from outside, by the
    variant 'planned' unless --variant or --policy names another: its dirty rate is measured before and while it
    migrates, and its vCPU threads are slowed, which needs the right to make control groups, or else by what QEMU has
    itself. --variant original leaves that to QEMU, and with --no-auto-converge nothing slows the guest.

    \b
    vmferry migrate --qmp unix:/tmp/a.qmp tcp:otherhost:4444 --finish-by 10min
    vmferry migrate --libvirt busy --attach --wait --max-guest-loss 30%

    Parameters that are not given keep the values they have in the VM. Ctrl-C cancels; the VM then goes on running
    where it is, unthrottled.
    """
    if bool(uri) == attach:
        raise UsageError("give the URI to migrate to, or --attach to steer a migration that runs already")
    if wait and not attach:
        raise UsageError("--wait waits for a migration that somebody else begins; give --attach as well")
    given = given_parameters(parameters)
    chosen = named_policy(policy, variant, settings)
    course, clock = CourseJournal(), MonotonicClock()
    with (
        cancelled_by_signals() as cancel,  # whichever: the VM is left as it was found
        open_view(clock, as_object=as_json, as_lines=json_lines) as view,
        told_as(
            "let go of the migration, which goes on by itself" if attach else "interrupted before it migrated", cancel
        ),
        open_monitor(address, while_waiting=cancel.check) as monitor,
        open_monitor(destination_qmp, while_waiting=cancel.check) if destination_qmp else nullcontext() as other,
        open_journal(journal) as record,
    ):
        order = Order(
            uri=uri,
            wait=wait,
            variant=chosen,
            pace=pace,
            auto_converge=auto_converge,
            parameters=given,
            throttle_by=throttle_by,
            window_ms=interval,
            limits=limits,
            channels=channels,
            compression=compression,
            hand_over_timeout_ns=None if hand_over_timeout is None else hand_over_timeout * NS_PER_MS,
            destination=Destination(other, clock) if other else None,
            journal=TeeJournal([record, course, view.journal]),
        )
        deadline_ms = None if limits.deadline_ns is None else limits.deadline_ns // NS_PER_MS
        with view.following(_downtime_limit_ms(monitor, given, limits), deadline_ms) as (watch, tell):
            result = carry_out(Ports(monitor, clock, cancel, tell, view.warn or tell), order, watch)
        view.end(result, run_series(course.entries, "").outcome)
    context.exit(exit_code_of(result))


def _downtime_limit_ms(monitor: Monitor, given: Mapping[str, object], limits: Limits) -> int:
    current = monitor.execute("query-migrate-parameters")
    changed = limits.applied_to(given, current)
    return int({**current, **changed}["downtime-limit"])
