"""The commands that measure the dirty rate (QEMU `qapi/migration.json`)."""

from enum import StrEnum

from msgspec import UNSET, UnsetType

from vmferry.migration.dirty_rate import DirtyRateMode, DirtyRateRequest, DirtyRateStatus
from vmferry.monitor.qapi import QapiStruct, UInt64
from vmferry.monitor.vm_port import MonitoredVm


class TimeUnit(StrEnum):
    """The unit of a calculation time."""

    SECOND = "second"
    MILLISECOND = "millisecond"


_MS = {TimeUnit.SECOND: 1000, TimeUnit.MILLISECOND: 1}


class CalcDirtyRate(QapiStruct, frozen=True):
    """How long to measure (50 ms to 60 s; the unit is seconds if left out), and how."""

    calc_time: int
    calc_time_unit: TimeUnit | UnsetType = UNSET
    sample_pages: int | UnsetType = UNSET
    mode: DirtyRateMode | UnsetType = UNSET


class QueryDirtyRate(QapiStruct, frozen=True):
    """In which unit to return the calculation time; seconds if left out."""

    calc_time_unit: TimeUnit | UnsetType = UNSET


class DirtyRateInfo(QapiStruct, frozen=True, kw_only=True):
    """The latest measurement: `dirty-rate` in MiB/s, `start-time` in seconds after the Unix epoch."""

    dirty_rate: int | UnsetType = UNSET
    status: DirtyRateStatus
    start_time: int
    calc_time: int
    calc_time_unit: TimeUnit
    sample_pages: UInt64
    mode: DirtyRateMode


def calc_dirty_rate(vm: MonitoredVm, arguments: CalcDirtyRate) -> None:
    """Begin to measure how fast the guest dirties memory; the command does not wait for the end.

    `dirty-bitmap` needs the dirty log: it is refused while a migration runs, and a migration ends it.
    """
    request = DirtyRateRequest(
        period_ms=arguments.calc_time * _MS[arguments.calc_time_unit or TimeUnit.SECOND],
        mode=arguments.mode or DirtyRateMode.PAGE_SAMPLING,
        sample_pages_per_gib=None if arguments.sample_pages is UNSET else arguments.sample_pages,
    )
    vm.dirty_rate.start(request)


def query_dirty_rate(vm: MonitoredVm, arguments: QueryDirtyRate) -> DirtyRateInfo:
    """Return the latest measurement of the dirty rate."""
    info, unit = vm.dirty_rate.info, arguments.calc_time_unit or TimeUnit.SECOND
    return DirtyRateInfo(
        dirty_rate=UNSET if info.mib_per_s is None else info.mib_per_s,
        status=info.status,
        start_time=info.start_s,
        calc_time=info.period_ms // _MS[unit],
        calc_time_unit=unit,
        sample_pages=info.sample_pages_per_gib,
        mode=info.mode,
    )
