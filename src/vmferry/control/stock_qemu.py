"""Migrates a VM of stock QEMU with our decisions: sets it up, steers, and puts back what was changed."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from vmferry.control.cgroup import CpuQuota
from vmferry.control.drive import Progress, Result
from vmferry.control.guard import Guard
from vmferry.control.limits import LimitKeeper, Limits
from vmferry.control.qmp_client import QmpClient
from vmferry.control.recorder import Recorder
from vmferry.control.sensors import DirtyRateSensor
from vmferry.control.steer import Steering, steer
from vmferry.convergence.policy import Variant, make_policy
from vmferry.errors import MonitorError, UsageError
from vmferry.migration.parameters import MigrationParameters
from vmferry.migration.ports import Journal

DEFAULT_INTERVAL_MS = 1000
DEFAULT_INCREMENT_PERCENT = 20
"""Larger than in the engine: what is decided from outside is decided at most once a second."""

_OVER = frozenset({"none", "completed", "failed", "cancelled"})
_LOCAL = frozenset({"background-sync", "cpu-responsive-throttle", "convergence-policy"})


@dataclass(frozen=True)
class StockQemu:
    """A VM of QEMU behind a monitor."""

    monitor: QmpClient
    version: str


def identify(monitor: QmpClient) -> StockQemu | None:
    """Return the VM behind the monitor if it is QEMU's, None if it is one of ours, which decides for itself."""
    version = monitor.execute("query-version")
    if str(version.get("package", "")).startswith("vmferry"):
        return None
    numbers = version.get("qemu", {})
    return StockQemu(monitor, ".".join(str(numbers.get(part, "?")) for part in ("major", "minor", "micro")))


@dataclass(frozen=True)
class Order:
    """What is to be done: where to, by which variant, with which parameters, limits and journal."""

    uri: str | None
    """None to steer a migration that runs already."""
    variant: Variant
    parameters: Mapping[str, object]
    limits: Limits
    journal: Journal
    interval_ms: int = DEFAULT_INTERVAL_MS


def migrate_qemu(vm: StockQemu, order: Order, watch: Callable[[Progress], None], tell: Callable[[str], None]) -> Result:
    """Migrate a VM of QEMU and return how it ended; `tell` is told which means were picked.

    Raises UsageError if the VM migrates already, and HostError if its threads cannot be slowed from here; then nothing
    was begun. Whatever happens, its vCPUs run unthrottled at the end.
    """
    monitor = vm.monitor
    _check_idle(monitor, attach=order.uri is None)
    ours, theirs = _split(order)
    thread_ids = [vcpu["thread-id"] for vcpu in monitor.execute("query-cpus-fast")]
    with Guard() as guard:
        quota = CpuQuota(thread_ids, guard)
        with _parameters(monitor, theirs), _auto_converge_off(monitor, attach=order.uri is None):
            recorder = Recorder(order.journal, time.monotonic_ns)
            recorder.start(_memory_bytes(monitor), len(thread_ids), True, ours.as_qmp() | theirs)
            steering = Steering(
                policy=make_policy(ours.convergence_policy),
                settings=ours.throttle_settings(),
                sensor=DirtyRateSensor(monitor, order.interval_ms),
                actuator=quota,
                recorder=recorder,
                keeper=LimitKeeper(order.limits, monitor, tell),
            )
            tell(f"QEMU {vm.version}: throttled by {quota}, dirty rate measured every {order.interval_ms} ms")
            if order.uri is not None:
                monitor.execute("migrate", {"uri": order.uri})
            return steer(monitor, steering, watch)


def _check_idle(monitor: QmpClient, *, attach: bool) -> None:
    status = monitor.execute("query-migrate").get("status", "none")
    if not attach and status not in _OVER:
        raise UsageError(f"the VM is migrating already ('{status}'); --attach steers that migration")
    if attach and status in _OVER:
        raise UsageError(f"there is no migration to steer, the last one is '{status}'; leave out --attach")


def _split(order: Order) -> tuple[MigrationParameters, dict[str, object]]:
    """Return the parameters that we obey ourselves, and those that are for QEMU."""
    variant = {
        "background-sync": order.variant.background_sync,
        "cpu-responsive-throttle": order.variant.responsive_throttle,
    }
    default = {"cpu-throttle-increment": DEFAULT_INCREMENT_PERCENT}
    ours = MigrationParameters().changed(default | variant | dict(order.parameters))
    theirs = {
        name: value
        for name, value in order.parameters.items()
        if name not in _LOCAL and "throttle" not in name and not name.startswith("x-")
    }
    return ours, theirs


@contextmanager
def _parameters(monitor: QmpClient, parameters: Mapping[str, object]) -> Iterator[None]:
    """Set parameters for a while."""
    before = monitor.execute("query-migrate-parameters")
    if parameters:
        monitor.execute("migrate-set-parameters", dict(parameters))
    try:
        yield
    finally:
        with suppress(MonitorError):  # QEMU may be gone
            monitor.execute("migrate-set-parameters", {name: before[name] for name in parameters if name in before})


@contextmanager
def _auto_converge_off(monitor: QmpClient, *, attach: bool) -> Iterator[None]:
    """Do without QEMU's own throttle for a while. A migration that runs already keeps its capabilities."""
    states: list[dict[str, Any]] = monitor.execute("query-migrate-capabilities")
    if attach or {"capability": "auto-converge", "state": True} not in states:
        yield
        return
    _set_auto_converge(monitor, on=False)
    try:
        yield
    finally:
        with suppress(MonitorError):
            _set_auto_converge(monitor, on=True)


def _set_auto_converge(monitor: QmpClient, *, on: bool) -> None:
    state = {"capability": "auto-converge", "state": on}
    monitor.execute("migrate-set-capabilities", {"capabilities": [state]})


def _memory_bytes(monitor: QmpClient) -> int:
    return int(monitor.execute("query-memory-size-summary").get("base-memory", 0))
