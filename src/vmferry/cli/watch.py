"""`vmferry watch`: show a migration that someone else began, without touching it."""

from dataclasses import replace
from pathlib import Path

import click

from vmferry.cli.interrupts import cancelled_by_signals, told_as
from vmferry.cli.journal_option import journal_option, open_journal
from vmferry.cli.monitor_option import monitor_options
from vmferry.cli.progress import exit_code_of, screen, show_result
from vmferry.client.monitor import open_monitor
from vmferry.control.arrival import arrival_of
from vmferry.control.awaiting import await_migration
from vmferry.control.drive import Progress, follow
from vmferry.control.driven_vm import DrivenVm
from vmferry.control.phases import Phases
from vmferry.control.vm_record import open_recorder, start_recording
from vmferry.migration.journal import CourseJournal, TeeJournal
from vmferry.report.journal_runs import run_series
from vmferry.vm.clock import MonotonicClock


@click.command("watch", short_help="Show a migration that someone else began, without touching it.")
@monitor_options
@click.option("--wait", is_flag=True, help="Wait until a migration begins.")
@journal_option
@click.pass_context
def command(context: click.Context, /, address: str, wait: bool, journal: Path | None) -> None:
    """Show how the migration of a VM goes, ours or QEMU's, until it ends.

    The monitor is only asked. Exit code 1 if the migration does not complete, 3 if nobody knows whether the guest has
    arrived; Ctrl-C ends watching.
    """
    clock = MonotonicClock()
    with (
        cancelled_by_signals() as cancel,
        open_monitor(address, while_waiting=cancel.check) as monitor,
        open_journal(journal) as record,
    ):
        with told_as("interrupted", cancel):
            await_migration(monitor, clock, cancel, wait=wait)
        driven = DrivenVm.ask(monitor)
        course = CourseJournal()
        recorder = open_recorder(monitor, driven, TeeJournal([record, course]), clock.now_ns, attached=True)
        parameters = start_recording(recorder, monitor, {})
        with (
            told_as("stopped watching; the migration goes on", cancel),
            screen(parameters["downtime-limit"], quiet=False) as (watch, tell),
        ):
            phases = Phases(tell)

            def observe(progress: Progress) -> Progress:
                phases.observe(progress)
                recorder.poll(progress)
                watch(progress)
                return progress

            result = follow(monitor, clock, observe, cancel)
        recorder.end(result)
    result = replace(result, arrival=arrival_of(result, driven, driven.capabilities, monitor.manager, None))
    show_result(result, run_series(course.entries, "").outcome)
    context.exit(exit_code_of(result))
