"""The commands that switch trace events on and off while the VM runs (QEMU `qapi/trace.json`)."""

from enum import StrEnum

from msgspec import UNSET, UnsetType

from vmferry.errors import UsageError
from vmferry.migration.trace import matching_events
from vmferry.monitor.qapi import QapiStruct
from vmferry.monitor.vm_port import MonitoredVm


class TraceEventState(StrEnum):
    """Whether an event is printed; in QEMU some are not compiled in."""

    UNAVAILABLE = "unavailable"
    DISABLED = "disabled"
    ENABLED = "enabled"


class TraceEventInfo(QapiStruct, frozen=True):
    """A trace event."""

    name: str
    state: TraceEventState


class TraceEventGetState(QapiStruct, frozen=True):
    """The name of a trace event, or a pattern with `*` and `?`."""

    name: str


class TraceEventSetState(QapiStruct, frozen=True):
    """The name of a trace event, or a pattern with `*` and `?`, and whether it is to be printed."""

    name: str
    enable: bool
    ignore_unavailable: bool | UnsetType = UNSET


def find_events(pattern: str) -> list[str]:
    """Return the names that match. Raises UsageError if it is no pattern and there is no such event."""
    names = matching_events(pattern)
    if not names and not set(pattern) & set("*?"):
        raise UsageError(f'unknown event "{pattern}"')
    return names


def switch_events(vm: MonitoredVm, pattern: str, *, on: bool) -> None:
    """Switch events on or off. Raises UsageError as `find_events` does."""
    names = find_events(pattern)
    vm.tracer.enabled = vm.tracer.enabled.union(names) if on else vm.tracer.enabled.difference(names)


def trace_event_get_state(vm: MonitoredVm, arguments: TraceEventGetState) -> list[TraceEventInfo]:
    """Return which trace events are printed to the VM's standard error."""
    states = {True: TraceEventState.ENABLED, False: TraceEventState.DISABLED}
    return [TraceEventInfo(name=name, state=states[name in vm.tracer.enabled]) for name in find_events(arguments.name)]


def trace_event_set_state(vm: MonitoredVm, arguments: TraceEventSetState) -> None:
    """Switch trace events on or off."""
    switch_events(vm, arguments.name, on=arguments.enable)
