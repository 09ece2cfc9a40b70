"""The answer to `query-migrate` (QEMU `qapi/migration.json`: MigrationInfo, MigrationStats)."""

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from vmferry.migration import info
from vmferry.migration.compression import CompressionFigures
from vmferry.migration.delta import DeltaFigures
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.qapi import QapiStruct, UInt64
from vmferry.transport.uri import TcpAddress, parse_uri

_T = TypeVar("_T")


class MigrationStats(QapiStruct, frozen=True, kw_only=True):
    """The figures of the RAM migration; sizes are bytes, page counts are pages.

    `iteration-count` is not in QEMU: it counts without the background syncs, `dirty-sync-count` with them.
    Nor is `dirty-sync-time`, the milliseconds that syncs have taken.
    """

    transferred: int
    remaining: int
    total: int
    duplicate: int
    normal: int
    normal_bytes: int
    dirty_pages_rate: int
    mbps: float
    dirty_sync_count: int
    iteration_count: int
    dirty_sync_time: float
    postcopy_requests: int = 0
    page_size: int
    multifd_bytes: UInt64 = 0
    pages_per_second: UInt64
    precopy_bytes: UInt64
    downtime_bytes: UInt64
    postcopy_bytes: UInt64 = 0
    dirty_sync_missed_zero_copy: UInt64 = 0


class DowntimeParts(QapiStruct, frozen=True):
    """Not in QEMU: the milliseconds that each part of the downtime took."""

    stop: float | UnsetType = UNSET
    pause: float | UnsetType = UNSET
    last_sync: float | UnsetType = UNSET
    ram: float | UnsetType = UNSET
    state: float | UnsetType = UNSET
    hand_over: float | UnsetType = UNSET


class CompressionStats(QapiStruct, frozen=True):
    """Not in QEMU: what compressing pages has done, and how fast memory moves with it and without it, as measured."""

    on: bool
    plain_bytes: UInt64
    compressed_bytes: UInt64
    ratio: float | UnsetType = UNSET
    compressed_rate: UInt64 | UnsetType = UNSET
    plain_rate: UInt64 | UnsetType = UNSET


class XBZRLECacheStats(QapiStruct, frozen=True):
    """What sending only what changed has done; sizes are bytes, the rates are those of the running iteration."""

    cache_size: UInt64
    bytes: int
    pages: int
    cache_miss: int
    cache_miss_rate: float
    encoding_rate: float
    overflow: int


class SocketAddress(QapiStruct, frozen=True, tag_field="type"):
    """Where a destination listens."""


class InetSocketAddress(SocketAddress, frozen=True, tag="inet"):
    """A host and a port; QEMU writes the port as a string."""

    host: str
    port: str


class UnixSocketAddress(SocketAddress, frozen=True, tag="unix"):
    """A path."""

    path: str


class MigrationInfo(QapiStruct, frozen=True):
    """The state of the latest migration; times are milliseconds. Empty if there was none."""

    status: MigrationStatus | UnsetType = UNSET
    ram: MigrationStats | UnsetType = UNSET
    total_time: int | UnsetType = UNSET
    expected_downtime: int | UnsetType = UNSET
    downtime: int | UnsetType = UNSET
    downtime_parts: DowntimeParts | UnsetType = UNSET
    setup_time: int | UnsetType = UNSET
    cpu_throttle_percentage: int | UnsetType = UNSET
    cpu_throttle_vcpus: list[int] | UnsetType = UNSET
    stalled_time: int | UnsetType = UNSET
    compression: CompressionStats | UnsetType = UNSET
    xbzrle_cache: XBZRLECacheStats | UnsetType = UNSET
    verified: bool | UnsetType = UNSET
    error_desc: str | UnsetType = UNSET
    socket_address: list[InetSocketAddress | UnixSocketAddress] | UnsetType = UNSET


def migration_info(state: info.MigrationInfo) -> MigrationInfo:
    """Return the answer that tells `state`."""
    if state.status is MigrationStatus.NONE:
        return MigrationInfo()
    return MigrationInfo(
        status=state.status,
        ram=_stats(state.ram) if state.ram else UNSET,
        total_time=or_unset(state.total_time_ms),
        expected_downtime=or_unset(state.expected_downtime_ms),
        downtime=or_unset(state.downtime_ms),
        downtime_parts=_parts(state.downtime_parts_ms) if state.downtime_parts_ms else UNSET,
        setup_time=or_unset(state.setup_time_ms),
        cpu_throttle_percentage=or_unset(state.cpu_throttle_percentage),
        cpu_throttle_vcpus=list(state.cpu_throttle_vcpus) if state.cpu_throttle_vcpus else UNSET,
        stalled_time=or_unset(state.stalled_time_ms),
        compression=_compression(state.compression) if state.compression else UNSET,
        xbzrle_cache=_xbzrle_cache(state.xbzrle_cache) if state.xbzrle_cache else UNSET,
        verified=or_unset(state.verified),
        error_desc=or_unset(state.error_desc),
        socket_address=[_address(state.socket_address)] if state.socket_address else UNSET,
    )


def or_unset(value: _T | None) -> _T | UnsetType:
    """Return a value, or what leaves a member out."""
    return UNSET if value is None else value


def _stats(ram: info.RamInfo) -> MigrationStats:
    return msgspec.convert(ram, MigrationStats, from_attributes=True)


def _compression(figures: CompressionFigures) -> CompressionStats:
    return CompressionStats(
        on=figures.on,
        plain_bytes=figures.plain_bytes,
        compressed_bytes=figures.compressed_bytes,
        ratio=or_unset(figures.ratio),
        compressed_rate=or_unset(figures.compressed_bytes_per_s),
        plain_rate=or_unset(figures.plain_bytes_per_s),
    )


def _xbzrle_cache(figures: DeltaFigures) -> XBZRLECacheStats:
    return msgspec.convert(figures, XBZRLECacheStats, from_attributes=True)


def _parts(parts_ms: dict[str, float]) -> DowntimeParts:
    return msgspec.convert(parts_ms, DowntimeParts)


def _address(uri: str) -> InetSocketAddress | UnixSocketAddress:
    address = parse_uri(uri)
    if isinstance(address, TcpAddress):
        return InetSocketAddress(host=address.host, port=str(address.port))
    return UnixSocketAddress(path=address.path)
