"""What an operator reads of a guest that leaves and of one that comes, in plain sentences."""

from vmferry.migration.events import CompressionChosen
from vmferry.migration.info import MigrationInfo
from vmferry.migration.status import MigrationStatus
from vmferry.units import format_duration, format_ms, format_rate


def departure(uri: str, info: MigrationInfo) -> str:
    """Tell how a migration to `uri` has ended."""
    match info.status:
        case MigrationStatus.COMPLETED:
            duration = "" if info.total_time_ms is None else f" in {format_ms(info.total_time_ms)}"
            downtime = "" if info.downtime_ms is None else f", stopped for {format_ms(info.downtime_ms)}"
            verified = "its memory was verified" if info.verified else "its memory was not verified"
            return f"the guest has left for {uri}{duration}{downtime}; {verified}{_compressed(info)}"
        case MigrationStatus.CANCELLED:
            return f"the migration to {uri} was cancelled; the guest stays here"
        case MigrationStatus.IN_DOUBT:
            return f"whether the guest has left for {uri} is not known: {info.error_desc}"
        case _:
            return f"migration to {uri} failed: {info.error_desc}"


def choice(chosen: CompressionChosen) -> str:
    """Tell whether pages are compressed from now on, and what was measured."""
    speeds = " and ".join(
        f"at {format_rate(speed)} {how} it"
        for speed, how in ((chosen.compressed_bytes_per_s, "with"), (chosen.plain_bytes_per_s, "without"))
        if speed is not None
    )
    smaller = "" if chosen.ratio is None else f"it makes pages {chosen.ratio:.1f} times smaller, and "
    return f"compression is {'on' if chosen.on else 'off'}: {smaller}memory moves {speeds}"


def arrival(origin: str, duration_ns: int, *, running: bool) -> str:
    """Tell that a guest has come; how long it stood still, only its source knows."""
    state = "runs" if running else "is paused"
    return f"the guest has come from {origin} in {format_duration(duration_ns)} and {state} here"


def _compressed(info: MigrationInfo) -> str:
    ratio = info.compression and info.compression.ratio
    return f"; pages that were compressed became {ratio:.1f} times smaller" if ratio else ""
