"""What the answers of a monitor look like, as far as we read them.

A monitor may be anybody's, also that of a QEMU whose guest has taken it over; what is read of it later needs no
further check. Source: QEMU `qapi/migration.json`, `qapi/machine-target.json`, `qapi/introspect.json`.
"""

from typing import Annotated, Any

import msgspec

from vmferry.bounds import Integer, Natural, Number
from vmferry.units import PAGE_SIZE_BYTES


class _Answer(msgspec.Struct, rename="kebab"):
    pass


class _Ram(_Answer):
    iteration_count: Integer = 0
    dirty_sync_count: Integer = 0
    remaining: Integer = 0
    total: Integer = 0
    transferred: Integer = 0
    normal: Integer = 0
    normal_bytes: Integer = 0
    duplicate: Integer = 0
    mbps: Number = 0.0
    dirty_pages_rate: Integer = 0
    dirty_sync_time: Number = 0.0
    page_size: Annotated[int, msgspec.Meta(ge=1, le=1 << 30)] = PAGE_SIZE_BYTES


class _XbzrleCache(_Answer):
    pages: Integer = 0


class _MigrationInfo(_Answer):
    status: str = "none"
    total_time: Integer = 0
    ram: _Ram = msgspec.field(default_factory=_Ram)
    xbzrle_cache: _XbzrleCache | None = None
    cpu_throttle_percentage: Integer = 0
    cpu_throttle_vcpus: list[Annotated[int, msgspec.Meta(ge=0, le=100)]] = []
    downtime: Integer | None = None
    downtime_parts: dict[str, Number] | None = None
    error_desc: str | None = None


_Size = Annotated[int, msgspec.Meta(ge=0)]
"""QEMU's largest has 64 bits, so whoever reckons with one bounds it by `LARGEST`."""


class _Parameters(_Answer):
    downtime_limit: Integer
    max_bandwidth: _Size | None = None
    avail_switchover_bandwidth: _Size | None = None


class _Capability(_Answer):
    capability: str
    state: bool


class _Cpu(_Answer):
    cpu_index: Integer
    thread_id: Integer


class _VcpuDirtyRate(_Answer):
    id: Integer
    dirty_rate: Integer


class _DirtyRate(_Answer):
    status: str
    dirty_rate: Integer = 0
    vcpu_dirty_rate: list[_VcpuDirtyRate] = []


class _Kvm(_Answer):
    enabled: bool


class _Status(_Answer):
    status: str


class _Name(_Answer):
    name: str = ""


class _Property(_Answer):
    name: str


class _Memory(_Answer):
    base_memory: Natural
    plugged_memory: Natural = 0


class _RecordPart(_Answer):
    lines: list[str]
    next: Natural
    dropped: Natural


class _CompressionSample(_Answer):
    sample_pages: Natural
    ratio: Annotated[float, msgspec.Meta(gt=0, le=1 << 20)] | None = None
    compressed_rate: Annotated[int, msgspec.Meta(ge=1)] | None = None


class SchemaMember(_Answer):
    """A member of a type, such as an argument of a command. Not every member has both fields."""

    name: str = ""
    type: str = ""


class SchemaEntry(_Answer):
    """A command, an event or a type. Entries of each kind have some of the fields only."""

    name: str
    meta_type: str
    arg_type: str = ""
    members: list[SchemaMember] = []
    values: list[str] = []


_ANSWERS: dict[str, Any] = {
    "human-monitor-command": str,
    "qom-list": list[_Property],
    "query-cpus-fast": list[_Cpu],
    "query-dirty-rate": _DirtyRate,
    "query-kvm": _Kvm,
    "query-memory-size-summary": _Memory,
    "query-migrate": _MigrationInfo,
    "query-migrate-capabilities": list[_Capability],
    "query-migrate-parameters": _Parameters,
    "query-name": _Name,
    "query-qmp-schema": list[SchemaEntry],
    "query-status": _Status,
    "x-query-compression": _CompressionSample,
    "x-query-migrate-journal": _RecordPart,
}


def check_answer(command: str, answer: object) -> None:
    """Raise ValueError if this cannot be the answer to the command, as far as we know it."""
    if command in _ANSWERS:
        try:
            msgspec.convert(answer, _ANSWERS[command])
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error
