"""Asks a VM, and measures how its guest writes: the survey for a forecast."""

from collections.abc import Iterator

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.control.asking.driven_vm import DrivenVm, own_variant
from vmferry.control.asking.guest_memory import memory_bytes
from vmferry.control.asking.progress import ask
from vmferry.control.asking.run_states import require_guest
from vmferry.control.asking.survey import Busyness, used_bytes
from vmferry.errors import UsageError
from vmferry.migration.ports import Clock
from vmferry.study.bursts import bursts_of
from vmferry.study.shrinking import AS_THEY_ARE, Shrinking, shrinking_of
from vmferry.study.survey import QEMU_NEW, QEMU_OLD, Survey
from vmferry.study.watching import Watched, watch_guest
from vmferry.units import NS_PER_S, format_duration, format_rate, format_size

_STILL_RISES = 1.1
_OWN_PARAMETERS = (
    *("throttle-trigger-threshold", "cpu-throttle-initial", "cpu-throttle-increment", "cpu-throttle-tailslow"),
    "max-cpu-throttle",
)


def survey_vm(
    monitor: Monitor, clock: Clock, cancel: CancelToken, bandwidth: int | None, downtime_limit_ms: int | None
) -> tuple[str, Survey]:
    """Return the VM's name and what is known of it. Nothing is changed.

    Raises UsageError if something has to be given, or it migrates already, HostError if it cannot measure, MonitorError
    and CancelledError.
    """
    driven = DrivenVm.ask(monitor)
    require_guest(monitor)
    if (status := ask(monitor)).running:
        raise UsageError(f"the VM is migrating already ('{status.status}'); `vmferry watch` shows how it goes")
    rate, limit_ms = _bandwidth(driven, bandwidth), _downtime_limit_ms(driven, downtime_limit_ms)
    busyness = Busyness(monitor, clock)
    watched = watch_guest(monitor, driven, clock, cancel, busyness)
    size_bytes, paused = memory_bytes(monitor), not monitor.execute("query-status")["running"]
    demand = 1.0 if paused else busyness.share()
    used = used_bytes(monitor, driven, size_bytes)
    written = tuple(look.written for look in watched.windows)
    seen_bytes = min(size_bytes, max(point.distinct_bytes for point in written))
    shrinking = shrinking_of(monitor, driven)
    return driven.name, Survey(
        memory_bytes=size_bytes,
        used_bytes=size_bytes if used is None else max(used, seen_bytes),
        vcpu_count=max(1, len(monitor.execute("query-cpus-fast"))),
        written=written,
        bandwidth_bytes_per_s=rate,
        downtime_limit_ms=limit_ms,
        shrinking=shrinking,
        qemu="" if driven.converges_responsively else _like(monitor),
        own_parameters=_own_parameters(driven),
        demand=1.0 if demand is None else max(0.01, demand),
        paused=paused,
        unknown=(
            *_unknown_link(driven, bandwidth),
            *_unknown_curve(watched, paused=paused),
            *_unknown_size(shrinking),
            *_unknown_use(used, demand),
            *_unknown_waits(driven),
        ),
        looks=watched.looks,
    )


def _like(monitor: Monitor) -> str:
    """Return the modelled QEMU whose auto-converge does the same."""
    return QEMU_OLD if own_variant(monitor.execute("query-version")).is_qemus else QEMU_NEW


def _bandwidth(driven: DrivenVm, given: int | None) -> int:
    rate = given or driven.parameters.get("max-bandwidth")
    if not isinstance(rate, int) or not rate:
        raise UsageError("the VM's max-bandwidth is 0, no limit; give --bandwidth, what the link carries")
    return rate


def _downtime_limit_ms(driven: DrivenVm, given_ms: int | None) -> int:
    limit_ms = driven.parameters.get("downtime-limit") if given_ms is None else given_ms
    if not isinstance(limit_ms, int):
        raise UsageError("the VM tells no downtime-limit; give --downtime-limit, such as 300ms")
    return limit_ms


def _own_parameters(driven: DrivenVm) -> dict[str, int]:
    told = driven.parameters.items()
    return {name: value for name, value in told if name in _OWN_PARAMETERS and isinstance(value, int)}


def _unknown_link(driven: DrivenVm, given: int | None) -> Iterator[str]:
    if not given:
        yield "what the link carries: the VM's max-bandwidth is taken"
        return
    yield "whether the link carries what --bandwidth says: it was not measured"
    limit = driven.parameters.get("max-bandwidth")
    if isinstance(limit, int) and 0 < limit < given:
        yield f"what the VM's max-bandwidth of {format_rate(limit)} makes of it: give `migrate --max-bandwidth`, too"


def _unknown_size(shrinking: Shrinking | None) -> Iterator[str]:
    if shrinking is None:
        yield "how much smaller compression or xbzrle makes pages on the wire: they are taken to go as they are"
    elif shrinking is not AS_THEY_ARE:
        yield f"how small all pages become: some were packed, and became {shrinking.times_smaller:.1f} times smaller"


def _unknown_use(used_bytes: int | None, demand: float | None) -> Iterator[str]:
    if used_bytes is None:
        yield "how much of its memory the guest uses: all of it is taken for used"
    if demand is None:
        yield "how busy its vCPUs are: they are taken to use all that they get"


def _unknown_waits(driven: DrivenVm) -> Iterator[str]:
    if not driven.kvm:
        yield "how long QEMU, without KVM, waits for slowed vCPUs at its dirty syncs"


def _unknown_curve(watched: Watched, *, paused: bool) -> Iterator[str]:
    if paused:
        yield "what the guest writes when it runs: it is paused"
    windows = [look.written for look in watched.windows]
    if min(window.duration_ns for window in windows) >= NS_PER_S:
        yield "what the guest writes in less than a second, which this QEMU cannot measure"
    if watched.sampled:
        yield "how much it writes exactly: pages were only sampled, which misses what is written as it was"
    yield from _unknown_bursts(watched)
    *_, before, last = windows
    if last.distinct_bytes > _STILL_RISES * before.distinct_bytes:
        yield f"how large its working set is: it went on to new pages until {last.duration_ns / NS_PER_S:g} s"


def _unknown_bursts(watched: Watched) -> Iterator[str]:
    bursts = bursts_of(watched.looks)
    if not bursts:
        return
    short = format_duration(bursts.busy[0].duration_ns)
    found = f"up to {format_size(bursts.busy[0].distinct_bytes)} in {short}"
    watched_s = (watched.looks[-1].begin_ns + watched.looks[-1].written.duration_ns) / NS_PER_S
    yield (
        f"whether its bursts go on as in the {watched_s:.0f} s for which it was watched: it wrote {found} in "
        f"{bursts.busy_share:.0%} of the time, and {format_size(bursts.calm[0].distinct_bytes)} in the rest"
    )
