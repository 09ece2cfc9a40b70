"""`vmferry forecast`: what a migration would come to, before it begins."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import click

from vmferry.bounds import clean_text
from vmferry.cancel import CancelToken
from vmferry.cli.exit_codes import ExitCode
from vmferry.cli.files import check_picture
from vmferry.cli.forecast_view import show
from vmferry.cli.interrupts import cancelled_by_signals, told_as
from vmferry.cli.json_option import json_option, print_record
from vmferry.cli.monitor_option import optional_monitor_options
from vmferry.cli.tables import beside, terminal, warn
from vmferry.cli.types import DURATION_MS, RATE_WITH_UNIT
from vmferry.client.monitor import open_monitor
from vmferry.clock import MonotonicClock
from vmferry.errors import UsageError
from vmferry.migration.journal import read_migration
from vmferry.study.forecast_record import ForecastRecord
from vmferry.study.measured_survey import survey_vm
from vmferry.study.survey import Survey
from vmferry.study.told import work_out
from vmferry.units import NS_PER_S

_NICE = 5
"""Of a processor that a guest wants, too, a quarter is left. Less would take no less from it, only longer."""
_ENOUGH_NS = 12 * NS_PER_S
"""After so long nothing of a VM is worked out again to know it better: it is told soon on a busy host, too. What a
journal tells can wait, and is always the same."""
_EXIT_CODES = {"will": ExitCode.DONE, "may": ExitCode.MAY_CONVERGE, "will not": ExitCode.WILL_NOT_CONVERGE}


@click.command("forecast", short_help="Will it converge, how fast, at what cost? Before it begins.")
@optional_monitor_options
@click.option("--journal", type=click.Path(dir_okay=False, path_type=Path),
              help="Instead of a VM: the journal of an earlier migration of it.")  # fmt: skip
@click.option("--migration", type=click.IntRange(1), help="Which of several in the journal; the last if left out.")
@click.option("--bandwidth", type=RATE_WITH_UNIT,
              help="What the migration may use of the link, such as 1Gbit/s; else the VM's max-bandwidth, or what the "
              "journal tells.")  # fmt: skip
@click.option("--downtime-limit", type=DURATION_MS, help="How long the guest may stop; else the VM's downtime-limit.")
@click.option("--picture", type=click.Path(dir_okay=False, path_type=Path), callback=check_picture,
              help="Draw the dirty curve and what each strategy costs: FILE.svg or FILE.html.")  # fmt: skip
@json_option("Print one JSON object instead of tables.", ForecastRecord)
@click.pass_context
def command(
    context: click.Context,
    /,
    address: str | None,
    journal: Path | None,
    migration: int | None,
    bandwidth: int | None,
    downtime_limit: int | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Tell whether a VM will converge, how long it will take and what it will cost the guest, for every strategy.

    Nothing is moved and the guest is not throttled: how it writes is measured in windows of several lengths, for
    which its writes are logged, and then a guest that writes so is migrated in virtual time.
    """
    if bool(address) == bool(journal):
        raise UsageError("give the VM's monitor, --qmp ADDRESS or --libvirt DOMAIN, or --journal FILE of it")
    if migration and not journal:
        raise UsageError("--migration chooses one in a journal; give --journal FILE as well")
    if bandwidth == 0:
        raise UsageError("--bandwidth is 0; give what the link carries, such as 1Gbit/s")
    log, clock = beside(quiet=as_json), MonotonicClock()
    enough_ns = clock.now_ns() + _ENOUGH_NS
    with (
        cancelled_by_signals() as cancel,
        told_as("interrupted; nothing was changed", cancel),
        log.status("measuring how the guest writes") as status,
    ):
        if address:
            found = _measured(address, bandwidth, downtime_limit, cancel)
        else:
            assert journal
            found = _recorded(journal, migration, bandwidth, downtime_limit)

        def tell(what: str) -> None:
            cancel.check()
            status.update(f"working out: {what}")

        with _guests_first():
            told = work_out(found.name, found.survey, tell, lambda: bool(address) and clock.now_ns() > enough_ns)
    if picture:
        from vmferry.cli.forecast_picture import write_forecast

        write_forecast(picture, told)
    if as_json:
        print_record(told.record())
    else:
        show(terminal(), told)
    context.exit(_EXIT_CODES[told.verdict])


@contextmanager
def _guests_first() -> Iterator[None]:
    """Leave processors to others for a while, guests among them; not every user may come back from that, who ends."""
    before = os.getpriority(os.PRIO_PROCESS, 0)
    os.setpriority(os.PRIO_PROCESS, 0, max(before, _NICE))
    try:
        yield
    finally:
        with suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, 0, before)


@dataclass(frozen=True)
class _Found:
    name: str
    survey: Survey


def _measured(address: str, bandwidth: int | None, downtime_limit_ms: int | None, cancel: CancelToken) -> _Found:
    with open_monitor(address, while_waiting=cancel.check) as monitor:
        return _Found(*survey_vm(monitor, MonotonicClock(), cancel, bandwidth, downtime_limit_ms))


def _recorded(path: Path, number: int | None, bandwidth: int | None, downtime_limit_ms: int | None) -> _Found:
    from vmferry.study.recorded_survey import survey_of

    recorded, where = read_migration(path, number, warn), clean_text(str(path))
    which = f", migration {recorded.number} of {recorded.count}" if recorded.count > 1 else ""
    return _Found(f"{where}{which}", survey_of(recorded.entries, where, bandwidth, downtime_limit_ms))
