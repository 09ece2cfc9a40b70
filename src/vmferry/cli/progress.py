"""What `vmferry migrate` and `vmferry watch` show while a migration goes on and when it has ended."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from vmferry.bounds import one_line
from vmferry.cli.exit_codes import ExitCode, interrupted_by
from vmferry.cli.log_option import STDERR
from vmferry.cli.tables import beside, bold, say, terminal, warn
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import ArrivalState, Result
from vmferry.control.telling.outlook import Outlook, Outlooks
from vmferry.convergence.limit_watch import Verdict
from vmferry.errors import InterruptionError, MigrationError
from vmferry.migration.outcome import Outcome
from vmferry.output import unblocked_stderr
from vmferry.report.figures import count_text, lost_text, percent_text, sent_text, time_text
from vmferry.units import (
    MS_PER_S,
    NS_PER_S,
    UNKNOWN,
    format_duration,
    format_ms,
    format_rate,
    format_size,
    told,
)

_KEPT = {True: "kept", False: "NOT kept", None: "unknown whether kept"}
Watch = Callable[[Progress], None]
Tell = Callable[[str], None]


@contextmanager
def screen(downtime_limit_ms: int, deadline_ms: int | None = None, *, quiet: bool) -> Iterator[tuple[Watch, Tell]]:
    """Yield functions that show progress and that print a line above it; no terminal or pipe holds them up.

    Where the log is JSON, lines go there, and progress is not shown.
    """
    outlooks = Outlooks(downtime_limit_ms)
    silent = quiet or STDERR.is_json
    with (
        unblocked_stderr(warn),
        Live(
            console=beside(quiet=quiet),
            auto_refresh=False,
            transient=True,
            redirect_stderr=not silent,  # or else what others say there would be lost
        ) as live,
    ):

        def watch(progress: Progress) -> None:
            live.update(progress_view(progress, outlooks.update(progress), deadline_ms), refresh=True)

        def tell(text: str) -> None:
            say(live.console, one_line(text))

        yield watch, tell


def progress_view(progress: Progress, outlook: Outlook, deadline_ms: int | None = None) -> Group:
    """Return the live view, lines of at most 80 columns: how far it is, the figures, and a bar for the throttle.

    With a deadline, a line says how near that is.
    """
    status = bold(one_line(progress.status))
    elapsed = told(progress.elapsed_ms, lambda ms: f"  {ms / 1000:.1f} s", "")
    figures = (
        f"remaining {told(progress.remaining_bytes, format_size)}",
        f"sending {told(progress.bandwidth_bytes_per_s, format_rate)}",
        f"dirtied {told(progress.dirty_bytes_per_s, format_rate)}",
        f"iteration {count_text(progress.iteration_count)}",
    )
    throttle = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=100, completed=progress.throttle_percent or 0, width=12)
    lost = "" if outlook.lost_s == 0 else told(outlook.lost_s, lambda s: f"lost {s:.1f} s/vCPU", "lost unknown")
    stop = told(outlook.downtime_s, lambda s: f"downtime {format_duration(s * NS_PER_S)}", "")
    throttle.add_row(f"throttle {percent_text(progress.throttle_percent)}", bar, lost, stop)
    lines: list[RenderableType] = [
        status.append(f"{elapsed}  {outlook_text(outlook)}", "not bold"),
        "  ".join(figures),
        throttle,
    ]
    if deadline_ms is not None:
        lines.append(deadline_text(deadline_ms - (progress.elapsed_ms or 0), outlook))
    return Group(*lines)


def outlook_text(outlook: Outlook) -> str:
    """Say how far a migration is, and how long it may take; the same to who drives it and to who looks on."""
    if outlook.converges is False:
        needed = outlook.needed_percent
        return "does not converge yet" + (f", needs a throttle of {needed} %" if needed else "")
    if outlook.percent is None or outlook.least_s is None:
        return "time left unknown"
    least = format_duration(outlook.least_s * NS_PER_S)
    if outlook.most_s is None:
        return f"{outlook.percent} %, over {least} left"
    most = format_duration(outlook.most_s * NS_PER_S)
    return f"{outlook.percent} %, {least} to {most} left"


def deadline_text(left_ms: int, outlook: Outlook) -> str:
    """Say how near the deadline is, and whether the migration is expected to end before it."""
    time = format_ms(abs(left_ms))
    if left_ms < 0:
        return f"deadline passed {time} ago"
    least, most = outlook.least_s, outlook.most_s
    if least is not None and least * MS_PER_S > left_ms:
        return f"deadline in {time}: too soon"
    in_time = most is not None and most * MS_PER_S <= left_ms
    return f"deadline in {time}" + (": in time, as it goes" if in_time else "")


def show_result(result: Result, outcome: Outcome) -> None:
    """Print the figures of a completed migration.

    Raises MigrationError with the reason of any other, and InterruptionError if a signal cancelled it.
    """
    if result.completed:
        terminal().print(_figures(result, outcome))
        return
    last = result.last
    what = f"migration {last.status}" + (f": {' '.join(last.error.split())}" if last.error else "")
    text = "; ".join([what, *(f"{verdict.limit}: {_kept(verdict)}" for verdict in result.verdicts)])
    raise MigrationError(text) if result.interrupted_by is None else InterruptionError(text, result.interrupted_by)


def _figures(result: Result, outcome: Outcome) -> Table:
    arrived = result.arrival is None or result.arrival.state is ArrivalState.VERIFIED
    title = "Migration completed" if arrived else "Migration completed, as far as the source tells"
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_row("total time", time_text(outcome.total_time_ms))
    table.add_row("downtime", time_text(outcome.downtime_ms))
    for name, part_ms in outcome.downtime_parts_ms.items():
        table.add_row(f"  {one_line(name)}", f"{part_ms:.1f} ms")
    table.add_row("iterations", count_text(outcome.iteration_count, UNKNOWN))
    share = told(result.dirty_sync_share, lambda share: f", {share:.1%} of the time", "")
    table.add_row("dirty syncs", count_text(outcome.dirty_sync_count, UNKNOWN) + share)
    table.add_row("max throttle", percent_text(outcome.max_throttle_percent))
    beside = ", beside what it waited for pages in post-copy" if result.used_postcopy else ""
    table.add_row("guest's work lost", lost_text(outcome, 1) + beside)
    table.add_row("sent", sent_text(outcome))
    table.add_row("bottleneck", str(result.bottleneck) if result.bottleneck else UNKNOWN)
    if result.arrival:
        table.add_row("arrival", f"{result.arrival.state}: {result.arrival.text}")
    for verdict in result.verdicts:
        table.add_row(verdict.limit, _kept(verdict))
    return table


def _kept(verdict: Verdict) -> str:
    return f"{_KEPT[verdict.kept]}, {verdict.text}"


def exit_code_of(result: Result) -> int:
    """Return the exit code of a command that has followed a migration to its end."""
    if not result.completed:
        return ExitCode.FAILED if result.interrupted_by is None else interrupted_by(result.interrupted_by)
    if result.arrival and result.arrival.state is ArrivalState.UNVERIFIED:
        return ExitCode.UNVERIFIED
    return ExitCode.DONE if all(verdict.obeyed for verdict in result.verdicts) else ExitCode.LIMIT_NOT_KEPT
