"""What `vmferry migrate` and `vmferry watch` show while a migration goes on and when it has ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from vmferry.bounds import one_line
from vmferry.cli.exit_codes import ExitCode, interrupted_by
from vmferry.cli.tables import bold, terminal, warn
from vmferry.control.drive import Arrival, ArrivalState, Progress, Result, Verdict
from vmferry.control.forecast import Forecast, Outlook
from vmferry.errors import InterruptionError, MigrationError
from vmferry.output import unblocked_stderr
from vmferry.units import format_duration, format_rate, format_size

_NS_PER_MS = 1_000_000
_NS_PER_S = 1_000_000_000
_KEPT = {True: "kept", False: "NOT kept", None: "unknown whether kept"}
Watch = Callable[[Progress], None]
Tell = Callable[[str], None]


@contextmanager
def screen(downtime_limit_ms: int, *, quiet: bool) -> Iterator[tuple[Watch, Tell]]:
    """Yield functions that show progress and that print a line above it; no terminal or pipe holds them up."""
    forecast = Forecast(downtime_limit_ms)
    with (
        unblocked_stderr(warn),
        Live(console=terminal(stderr=True, quiet=quiet), auto_refresh=False, transient=True) as live,
    ):
        yield (
            lambda progress: live.update(progress_view(progress, forecast.update(progress)), refresh=True),
            lambda text: live.console.print(one_line(text), soft_wrap=True),
        )


def progress_view(progress: Progress, outlook: Outlook) -> Group:
    """Return the live view: how far it is, the figures, and a bar for the throttle."""
    first, second = Table.grid(padding=(0, 2)), Table.grid(padding=(0, 2))
    first.add_row(
        bold(one_line(progress.status)),
        f"{progress.elapsed_ms / 1000:.1f} s",
        f"{outlook.percent} %",
        _time_left(outlook),
        f"throttle {progress.throttle_percent} %",
        ProgressBar(total=100, completed=progress.throttle_percent, width=20),
    )
    second.add_row(
        f"remaining {format_size(progress.remaining_bytes)}",
        f"sending {format_rate(progress.bandwidth_bytes_per_s)}",
        f"dirtied {format_rate(progress.dirty_bytes_per_s)}",
        f"iteration {progress.iteration_count}",
    )
    return Group(first, second)


def _time_left(outlook: Outlook) -> str:
    if outlook.least_s is None:
        return "time left unknown"
    least = format_duration(round(outlook.least_s * _NS_PER_S))
    if outlook.most_s is None:
        return f"over {least} left"
    return f"{least} to {format_duration(round(outlook.most_s * _NS_PER_S))} left"


def show_result(result: Result) -> None:
    """Print the figures of a completed migration.

    Raises MigrationError with the reason of any other, and InterruptionError if a signal cancelled it.
    """
    if result.completed:
        terminal().print(_figures(result))
        return
    last = result.last
    what = f"migration {last.status}" + (f": {' '.join(last.error.split())}" if last.error else "")
    text = "; ".join([what, *(f"{verdict.limit}: {_kept(verdict)}" for verdict in result.verdicts)])
    raise MigrationError(text) if result.interrupted_by is None else InterruptionError(text, result.interrupted_by)


def _figures(result: Result) -> Table:
    last = result.last
    table = Table(title="Migration completed", show_header=False, title_justify="left")
    table.add_row("total time", format_duration(last.elapsed_ms * _NS_PER_MS))
    if last.downtime_ms is not None:
        table.add_row("downtime", format_duration(last.downtime_ms * _NS_PER_MS))
    for name, part_ms in (last.downtime_parts_ms or {}).items():
        table.add_row(f"  {name}", f"{part_ms:.1f} ms")
    table.add_row("iterations", str(last.iteration_count))
    table.add_row("dirty syncs", str(last.dirty_sync_count))
    table.add_row("max throttle", f"{result.max_throttle_percent} %")
    table.add_row("sent", f"{format_size(last.sent_bytes)}, for {format_size(last.total_bytes)} of memory")
    table.add_row("guest's work lost", _work_lost(result))
    if result.arrival:
        table.add_row("arrival", f"{result.arrival.state}: {result.arrival.text}")
    for verdict in result.verdicts:
        table.add_row(verdict.limit, _kept(verdict))
    return table


def _work_lost(result: Result) -> str:
    if result.work_lost_percent is None or result.work_lost_vcpu_ns is None:
        return "unknown"
    return f"{result.work_lost_percent:.1f} %, {format_duration(result.work_lost_vcpu_ns)} of vCPUs"


def _kept(verdict: Verdict) -> str:
    return f"{_KEPT[verdict.kept]}, {verdict.text}"


def exit_code_of(result: Result) -> int:
    """Return the exit code of a command that has followed a migration to its end."""
    if not result.completed:
        return ExitCode.FAILED if result.interrupted_by is None else interrupted_by(result.interrupted_by)
    match result.arrival:
        case Arrival(state=ArrivalState.FAILED):
            return ExitCode.FAILED
        case Arrival(state=ArrivalState.UNVERIFIED):
            return ExitCode.UNVERIFIED
    return ExitCode.DONE if all(verdict.obeyed for verdict in result.verdicts) else ExitCode.LIMIT_NOT_KEPT
