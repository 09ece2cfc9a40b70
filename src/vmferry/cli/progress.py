"""How a migration looks in a terminal, while it goes on and when it has ended."""

from rich.progress_bar import ProgressBar
from rich.table import Table

from vmferry.control.drive import Progress, Result
from vmferry.units import format_duration, format_rate, format_size

_NS_PER_MS = 1_000_000


def progress_table(progress: Progress) -> Table:
    """Return the live view: one line of figures and a bar for the throttle."""
    table = Table.grid(padding=(0, 2))
    throttle = ProgressBar(total=100, completed=progress.throttle_percent, width=20)
    table.add_row(
        f"[bold]{progress.status}[/]",
        f"{progress.elapsed_ms / 1000:.1f} s",
        f"iteration {progress.iteration_count}",
        f"remaining {format_size(progress.remaining_bytes)}",
        f"sending {format_rate(progress.bandwidth_bytes_per_s)}",
        f"dirtied {format_rate(progress.dirty_bytes_per_s)}",
        f"throttle {progress.throttle_percent} %",
        throttle,
    )
    return table


def summary(result: Result) -> Table | str:
    """Return how it ended: the figures of a completed migration, the reason of any other."""
    last = result.last
    if not result.completed:
        return f"Migration {last.status}" + (f": {last.error}" if last.error else "")
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
    return table
