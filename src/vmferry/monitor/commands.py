"""All commands in one table, and how one of them is carried out."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from vmferry.errors import UsageError
from vmferry.monitor import dirty_rate_commands as dirty_rate
from vmferry.monitor import memory_commands as memory
from vmferry.monitor import migration_commands as migration
from vmferry.monitor import trace_commands as trace
from vmferry.monitor import vm_commands as vm
from vmferry.monitor.events import EVENTS
from vmferry.monitor.hmp_commands import hmp_takes_long
from vmferry.monitor.introspection import AnySchemaInfo, describe
from vmferry.monitor.migration_info import MigrationInfo
from vmferry.monitor.qapi import Empty, QapiStruct, parse_arguments
from vmferry.monitor.vm_port import MonitoredVm


class CommandNotFoundError(UsageError):
    """There is no such command, or not now."""


class CommandInfo(QapiStruct, frozen=True):
    """The name of a command."""

    name: str


class EventInfo(QapiStruct, frozen=True):
    """The name of an event."""

    name: str


@dataclass(frozen=True)
class Command:
    """A command: the function that carries it out, and the types of what it takes and returns.

    The function takes the VM and, unless the command has none, the arguments. Its docstring is the
    command's documentation.
    """

    function: Callable[..., Any]
    arguments: type[QapiStruct] = Empty
    returns: Any = Empty
    takes_long: bool = False
    """Whether it may have to wait, for a disk or a name server; it is carried out in a thread of its own then."""

    def __call__(self, target: MonitoredVm, arguments: dict[str, Any]) -> object:
        """Check the arguments and carry the command out. Raises VmferryError."""
        parsed = parse_arguments(self.arguments, arguments)
        return self.function(target) if self.arguments is Empty else self.function(target, parsed)


def query_commands(_vm: MonitoredVm) -> list[CommandInfo]:
    """Return the names of all commands."""
    return [CommandInfo(name=name) for name in COMMANDS]


def query_events(_vm: MonitoredVm) -> list[EventInfo]:
    """Return the names of all events. QEMU had this command up to 5.2."""
    return [EventInfo(name=name) for name in EVENTS]


@cache
def _schema() -> list[AnySchemaInfo]:
    commands = [(name, command.arguments, command.returns) for name, command in COMMANDS.items()]
    return describe(commands, EVENTS)


def query_qmp_schema(_vm: MonitoredVm) -> list[AnySchemaInfo]:
    """Return the description of all commands, events and their types."""
    return _schema()


COMMANDS: dict[str, Command] = {
    "qmp_capabilities": Command(vm.qmp_capabilities, vm.QmpCapabilities),
    "query-commands": Command(query_commands, returns=list[CommandInfo]),
    "query-events": Command(query_events, returns=list[EventInfo]),
    "query-qmp-schema": Command(query_qmp_schema, returns=list[AnySchemaInfo]),
    "query-version": Command(vm.query_version, returns=vm.VersionInfo),
    "query-name": Command(vm.query_name, returns=vm.NameInfo),
    "query-uuid": Command(vm.query_uuid, returns=vm.UuidInfo),
    "query-status": Command(vm.query_status, returns=vm.StatusInfo),
    "query-cpus-fast": Command(vm.query_cpus_fast, returns=list[vm.CpuInfoFast]),
    "stop": Command(vm.stop),
    "cont": Command(vm.cont, vm.Cont),
    "system_powerdown": Command(vm.system_powerdown),
    "quit": Command(vm.quit_vm),
    "human-monitor-command": Command(vm.human_monitor_command, vm.HumanMonitorCommand, str),
    "pmemsave": Command(memory.pmemsave, memory.Pmemsave, takes_long=True),
    "query-memory-size-summary": Command(memory.query_memory_size_summary, returns=memory.MemoryInfo),
    "migrate": Command(migration.migrate, migration.Migrate),
    "migrate-incoming": Command(migration.migrate_incoming, migration.MigrateIncoming, takes_long=True),
    "migrate_cancel": Command(migration.migrate_cancel),
    "migrate-continue": Command(migration.migrate_continue, migration.MigrateContinue),
    "migrate-pause": Command(migration.migrate_pause),
    "query-migrate": Command(migration.query_migrate, returns=MigrationInfo),
    "x-query-migrate-journal": Command(
        migration.x_query_migrate_journal, migration.QueryMigrateJournal, migration.MigrateJournal
    ),
    "x-query-compression": Command(
        migration.x_query_compression, returns=migration.CompressionEstimate, takes_long=True
    ),
    "migrate-set-parameters": Command(migration.migrate_set_parameters, migration.MigrateSetParameters),
    "query-migrate-parameters": Command(migration.query_migrate_parameters, returns=migration.MigrationParameters),
    "migrate-set-capabilities": Command(migration.migrate_set_capabilities, migration.MigrateSetCapabilities),
    "query-migrate-capabilities": Command(
        migration.query_migrate_capabilities, returns=list[migration.MigrationCapabilityStatus]
    ),
    "trace-event-get-state": Command(
        trace.trace_event_get_state, trace.TraceEventGetState, returns=list[trace.TraceEventInfo]
    ),
    "trace-event-set-state": Command(trace.trace_event_set_state, trace.TraceEventSetState),
    "calc-dirty-rate": Command(dirty_rate.calc_dirty_rate, dirty_rate.CalcDirtyRate),
    "query-dirty-rate": Command(
        dirty_rate.query_dirty_rate, dirty_rate.QueryDirtyRate, returns=dirty_rate.DirtyRateInfo
    ),
}
"""Every command by its name."""


def find_command(name: str) -> Command:
    """Return the command. Raises CommandNotFoundError."""
    if name not in COMMANDS:
        raise CommandNotFoundError(f"The command {name} has not been found")
    return COMMANDS[name]


def takes_long(request: object) -> bool:
    """Tell whether a request is for a command that may have to wait."""
    match request:
        case {"execute": "human-monitor-command", "arguments": {"command-line": str(line)}}:
            return hmp_takes_long(line)
        case {"execute": str(name)} if name in COMMANDS:
            return COMMANDS[name].takes_long
    return False
