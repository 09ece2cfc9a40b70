"""What `query-migrate` tells: a snapshot of a migration in QEMU's terms and units."""

from dataclasses import dataclass

from vmferry.migration.compression import CompressionFigures
from vmferry.migration.delta import DeltaFigures
from vmferry.migration.status import MigrationStatus


@dataclass(frozen=True, kw_only=True)
class RamInfo:
    """QEMU's `MigrationStats`. Sizes are bytes, counts are pages, rates as named."""

    transferred: int
    remaining: int
    total: int
    duplicate: int
    """Zero pages sent."""
    normal: int
    normal_bytes: int
    dirty_pages_rate: int
    """Pages per second."""
    mbps: float
    """Megabits per second."""
    dirty_sync_count: int
    iteration_count: int
    dirty_sync_time: float
    """Not in QEMU: how many milliseconds dirty syncs have taken."""
    page_size: int
    multifd_bytes: int = 0
    """How much of `transferred` went over further connections."""
    pages_per_second: int
    precopy_bytes: int
    downtime_bytes: int


@dataclass(frozen=True, kw_only=True)
class MigrationInfo:
    """QEMU's `MigrationInfo`; a field is None where QEMU leaves it out."""

    status: MigrationStatus
    total_time_ms: int | None = None
    setup_time_ms: int | None = None
    expected_downtime_ms: int | None = None
    downtime_ms: int | None = None
    downtime_parts_ms: dict[str, float] | None = None
    """Not in QEMU: how long each part of the downtime took: stop, pause, last-sync, ram, state, hand-over."""
    ram: RamInfo | None = None
    cpu_throttle_percentage: int | None = None
    cpu_throttle_vcpus: tuple[int, ...] | None = None
    """Not in QEMU: the throttle of each vCPU, where they are throttled one by one; the one above is the greatest."""
    stalled_time_ms: int | None = None
    """Not in QEMU: for how long the link has stood still; None if it does not."""
    compression: CompressionFigures | None = None
    """Not in QEMU: what compressing has done so far; None if pages go as they are."""
    xbzrle_cache: DeltaFigures | None = None
    verified: bool | None = None
    """Not in QEMU: whether a digest of all memory was the same on both sides; None before the end."""
    error_desc: str | None = None
    socket_address: str | None = None
