"""What HMP's `info` commands print, with the labels of QEMU 10.1 (`migration/migration-hmp-cmds.c`).

Figures that QEMU does not have stand where they belong: `iterations` beside `dirty_syncs`, and the parts
of the downtime at the end of `info migrate -a`. Every function returns whole lines.
"""

from collections.abc import Container, Iterable

from vmferry.migration.delta import DeltaFigures
from vmferry.migration.dirty_rate import DirtyRateInfo, DirtyRateMode
from vmferry.migration.info import MigrationInfo, RamInfo
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.vm_port import RunState
from vmferry.settings.inert_parameters import INERT_PARAMETERS
from vmferry.settings.parameter_spec import ParameterSpec
from vmferry.settings.parameters import PARAMETERS, MigrationParameters, find_parameter
from vmferry.units import format_size

_PARAMETERS_IN_QEMUS_ORDER = (
    "announce-initial",
    "announce-max",
    "announce-rounds",
    "announce-step",
    "throttle-trigger-threshold",
    "cpu-throttle-initial",
    "cpu-throttle-increment",
    "cpu-throttle-tailslow",
    "cpu-responsive-throttle",
    "cpu-throttle-writers",
    "max-cpu-throttle",
    "tls-creds",
    "tls-hostname",
    "tls-authz",
    "max-bandwidth",
    "avail-switchover-bandwidth",
    "max-postcopy-bandwidth",
    "downtime-limit",
    "x-checkpoint-delay",
    "multifd-channels",
    "multifd-compression",
    "zero-page-detection",
    "xbzrle-cache-size",
    "x-vcpu-dirty-limit-period",
    "vcpu-dirty-limit",
    "mode",
    "direct-io",
)

_GLOBALS = """\
Globals:
  store-global-state: on
  only-migratable: off
  send-configuration: on
  send-section-footer: on
  send-switchover-start: on
  clear-bitmap-shift: 18
"""
"""Properties of QEMU's migration code, as QEMU has them by default; nobody can set them here."""


def format_status(state: RunState) -> str:
    """Return `info status`."""
    if state is RunState.RUNNING:
        return "VM status: running\n"
    return "VM status: paused\n" if state is RunState.PAUSED else f"VM status: paused ({state})\n"


def format_cpus(thread_ids: Iterable[int]) -> str:
    """Return `info cpus`; the star marks the vCPU that commands act on, which is always the first."""
    lines = [f"CPU #{index}: thread_id={thread_id}\n" for index, thread_id in enumerate(thread_ids)]
    return "".join(("* " if index == 0 else "  ") + line for index, line in enumerate(lines))


def format_capabilities(states: dict[str, bool]) -> str:
    """Return `info migrate_capabilities`."""
    return "".join(f"{name}: {_on_off(state)}\n" for name, state in states.items())


def format_parameters(parameters: MigrationParameters) -> str:
    """Return `info migrate_parameters`: QEMU's in QEMU's order, then those that QEMU does not have."""
    inert = {name: spec.default for name, spec in INERT_PARAMETERS.items()}
    values = inert | parameters.as_qmp()
    names = dict.fromkeys((*_PARAMETERS_IN_QEMUS_ORDER, *PARAMETERS))
    return "".join(_parameter(find_parameter(name), values[name]) for name in names)


def _parameter(spec: ParameterSpec, value: object) -> str:
    if isinstance(value, bool):
        value = _on_off(value)
    elif spec.qapi_type == "StrOrNull":
        value = f"'{value}'"
    return f"{spec.name}: {value} {spec.unit}".rstrip() + "\n"


def format_migration(info: MigrationInfo, *, everything: bool) -> str:
    """Return `info migrate`, or `info migrate -a`."""
    text = _status(info) + _times(info) if info.status is not MigrationStatus.NONE else ""
    if info.socket_address:
        text += f"Sockets: [\n\t{info.socket_address}\n]\n"
    if info.ram:
        text += _ram(info.ram)
    return text + _more(info) if everything else text


def format_dirty_rate(info: DirtyRateInfo) -> str:
    """Return `info dirty_rate`. The start time is in seconds; QEMU calls them ms."""
    samples = f"Sample Pages: {info.sample_pages_per_gib} (per GB)\n"
    rate = "(not ready)" if info.mib_per_s is None else f"{info.mib_per_s} (MB/s)"
    return (
        f"Status: {info.status}\n"
        f"Start Time: {info.start_s} (sec)\n"
        f"{samples if info.mode is DirtyRateMode.PAGE_SAMPLING else ''}"
        f"Period: {info.period_ms // 1000} (sec)\n"
        f"Mode: {info.mode}\n"
        f"Dirty rate: {rate}\n"
    )


def format_trace_events(names: Iterable[str], enabled: Container[str]) -> str:
    """Return `info trace-events`."""
    return "".join(f"{name} : state {int(name in enabled)}\n" for name in names)


def _status(info: MigrationInfo) -> str:
    unhappy = info.status in (MigrationStatus.FAILED, MigrationStatus.IN_DOUBT)
    reason = f" ({info.error_desc})" if unhappy and info.error_desc else ""
    return f"Status: \t\t{info.status}{reason}\n"


def _times(info: MigrationInfo) -> str:
    if not info.total_time_ms:
        return ""
    times_ms = {
        "total": info.total_time_ms,
        "setup": info.setup_time_ms,
        "exp_down": info.expected_downtime_ms,
        "down": info.downtime_ms,
    }
    return f"Time (ms): \t\t{_pairs(times_ms)}\n"


def _ram(ram: RamInfo) -> str:
    transferred, remaining = format_size(ram.transferred), format_size(ram.remaining)
    rates = {"transfer": ram.pages_per_second, "dirty": ram.dirty_pages_rate or None}
    others = {
        "dirty_syncs": ram.dirty_sync_count,
        "iterations": ram.iteration_count,
        "downtime_bytes": ram.downtime_bytes or None,
    }
    channels = {"precopy": ram.precopy_bytes, "multifd": ram.multifd_bytes, "postcopy": 0}
    return (
        "RAM info:\n"
        f"  Throughput (Mbps): \t{ram.mbps:.2f}\n"
        f"  Sizes: \t\tpagesize={format_size(ram.page_size)}, total={format_size(ram.total)}\n"
        f"  Transfers: \t\ttransferred={transferred}, remain={remaining}\n"
        f"    Channels: \t\t{', '.join(f'{name}={format_size(size)}' for name, size in channels.items())}\n"
        f"    Page Types: \tnormal={ram.normal}, zero={ram.duplicate}\n"
        f"  Page Rates (pps): \t{_pairs(rates)}\n"
        f"  Others: \t\t{_pairs(others)}\n"
    )


def _more(info: MigrationInfo) -> str:
    text = _GLOBALS
    if info.xbzrle_cache:
        text += _xbzrle(info.xbzrle_cache)
    if info.cpu_throttle_percentage is not None:
        text += f"CPU Throttle (%): {info.cpu_throttle_percentage}\n"
    if info.cpu_throttle_vcpus is not None:
        text += f"CPU Throttle of vCPUs (%): {' '.join(map(str, info.cpu_throttle_vcpus))}\n"
    if info.stalled_time_ms is not None:
        text += f"Link stands still (ms): {info.stalled_time_ms}\n"
    if info.downtime_parts_ms:
        parts = {name.replace("-", "_"): f"{part_ms:.1f}" for name, part_ms in info.downtime_parts_ms.items()}
        text += f"Downtime Parts (ms): {_pairs(parts)}\n"
    return text


def _xbzrle(cache: DeltaFigures) -> str:
    return (
        f"XBZRLE: size={cache.cache_size}, transferred={cache.bytes}, pages={cache.pages}, miss={cache.cache_miss}\n"
        f"  miss_rate={cache.cache_miss_rate:.2f}, encode_rate={cache.encoding_rate:.2f}, overflow={cache.overflow}\n"
    )


def _pairs(figures: dict[str, int | None] | dict[str, str]) -> str:
    return ", ".join(f"{name}={figure}" for name, figure in figures.items() if figure is not None)


def _on_off(state: bool) -> str:
    return "on" if state else "off"
