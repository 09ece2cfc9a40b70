"""The commands about migration (QEMU `qapi/migration.json`)."""

from collections.abc import Mapping
from typing import Annotated, Any, cast

import msgspec
from msgspec import UNSET, UnsetType

from vmferry.errors import UsageError
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.migration_info import MigrationInfo, migration_info, or_unset
from vmferry.monitor.qapi import QapiStruct, UInt8, UInt32, UInt64, words
from vmferry.monitor.vm_port import MonitoredVm
from vmferry.settings.capabilities import CAPABILITIES
from vmferry.settings.inert_parameters import INERT_PARAMETERS
from vmferry.settings.parameter_spec import ParameterSpec
from vmferry.settings.parameters import PARAMETERS


class Migrate(QapiStruct, frozen=True):
    """Where to migrate to."""

    uri: str
    detach: bool | UnsetType = UNSET
    """Ignored, as in QEMU: the command never waits."""
    resume: bool | UnsetType = UNSET


class MigrateIncoming(QapiStruct, frozen=True):
    """Where to wait for a guest."""

    uri: str


class MigrateContinue(QapiStruct, frozen=True):
    """The state in which the migration is to be."""

    state: MigrationStatus


class QueryMigrateJournal(QapiStruct, frozen=True):
    """Number of the first event that is wanted; left out: that which began the latest migration."""

    first: UInt64 | UnsetType = UNSET


class MigrateJournal(QapiStruct, frozen=True):
    """Lines of the journal, as many as fit one answer."""

    lines: list[str]
    """One JSON object each, `{"time-ns": ..., "event": {...}}`."""
    next: UInt64
    """The number of the event after the last of them: what to ask for next. Nothing is left if there are no lines."""
    dropped: UInt64
    """How many of the events that were asked for are gone: the beginning of a migration and the newest are kept."""


CapabilityName = Annotated[str, words("MigrationCapability", CAPABILITIES)]


class MigrationCapabilityStatus(QapiStruct, frozen=True):
    """A capability and whether it is on."""

    capability: CapabilityName
    state: bool


class CompressionEstimate(QapiStruct, frozen=True, kw_only=True):
    """How many pages were packed, how many times smaller they became, and how many bytes of memory per second all
    channels would pack."""

    sample_pages: UInt64
    ratio: float | UnsetType = UNSET
    compressed_rate: UInt64 | UnsetType = UNSET


class MigrateSetCapabilities(QapiStruct, frozen=True):
    """The capabilities to change."""

    capabilities: list[MigrationCapabilityStatus]


_ALL_PARAMETERS = PARAMETERS | INERT_PARAMETERS
_TYPES_OF_PARAMETERS: dict[str, Any] = {
    "bool": bool,
    "str": str,
    "StrOrNull": str | None,
    "uint8": UInt8,
    "uint32": UInt32,
    "uint64": UInt64,
    "size": UInt64,
    "list": list[Any],
}


def _struct(name: str, types: Mapping[str, Any], meaning: str) -> type[QapiStruct]:
    """Return a struct of all parameters, none of which need be there."""

    def member(spec: ParameterSpec) -> tuple[str, Any, Any]:
        kind = type(spec.default) if spec.choices else types[spec.qapi_type]
        return spec.attribute, kind | UnsetType, UNSET

    members = [member(spec) for spec in _ALL_PARAMETERS.values()]
    struct = msgspec.defstruct(name, members, bases=(QapiStruct,), namespace={"__doc__": meaning})
    return cast(type[QapiStruct], struct)


MigrateSetParameters = _struct(
    "MigrateSetParameters", _TYPES_OF_PARAMETERS, "The migration parameters to change; null resets a text."
)
MigrationParameters = _struct(
    "MigrationParameters", _TYPES_OF_PARAMETERS | {"StrOrNull": str}, "The migration parameters in force."
)


def migrate(vm: MonitoredVm, arguments: Migrate) -> None:
    """Begin to migrate the guest; the command does not wait for the end."""
    if arguments.resume:
        raise UsageError("Cannot resume if there is no paused migration")
    check_protocol(arguments.uri)
    vm.migrations.start(arguments.uri)


def check_protocol(uri: str) -> None:
    """Raise UsageError, with QEMU's text, for a uri of no protocol that there is."""
    if not uri.startswith(("tcp:", "unix:")):
        raise UsageError("Parameter 'uri' expects a valid migration protocol")


def migrate_incoming(vm: MonitoredVm, arguments: MigrateIncoming) -> None:
    """Begin to wait for a guest; only in a VM that was started for that."""
    vm.migrations.listen(arguments.uri)


def migrate_cancel(vm: MonitoredVm) -> None:
    """Call the outgoing migration off; harmless if there is none."""
    vm.migrations.cancel()


def migrate_continue(vm: MonitoredVm, arguments: MigrateContinue) -> None:
    """Let a migration go on that waits in `pre-switchover`; refused if it is in another state than the one given."""
    vm.migrations.continue_from(arguments.state)


def migrate_pause(vm: MonitoredVm) -> None:
    """Interrupt a post-copy migration; there is none here, so this is always refused."""
    raise UsageError("migrate-pause is currently only supported during postcopy-active or postcopy-recover state")


def query_migrate(vm: MonitoredVm) -> MigrationInfo:
    """Return the state and the figures of the latest migration."""
    return migration_info(vm.migrations.info())


def x_query_migrate_journal(vm: MonitoredVm, arguments: QueryMigrateJournal) -> MigrateJournal:
    """Return what the VM has recorded of its latest outgoing migration: syncs, bandwidth windows, decisions."""
    part = vm.migrations.record(None if arguments.first is UNSET else arguments.first)
    return MigrateJournal(lines=part.lines, next=part.next, dropped=part.dropped)


def x_query_compression(vm: MonitoredVm) -> CompressionEstimate:
    """Pack some of the guest's pages by zstd, as a migration with these parameters would; return what that comes to."""
    sample = vm.migrations.sample_compression()
    return CompressionEstimate(
        sample_pages=sample.page_count, ratio=or_unset(sample.ratio), compressed_rate=or_unset(sample.bytes_per_s)
    )


def migrate_set_parameters(vm: MonitoredVm, arguments: QapiStruct) -> None:
    """Change migration parameters, also of a running migration; all of them or, on an error, none."""
    vm.migrations.set_parameters(vm.migrations.parameters.changed(msgspec.to_builtins(arguments)))


def query_migrate_parameters(vm: MonitoredVm) -> QapiStruct:
    """Return all migration parameters."""
    inert = {name: spec.default for name, spec in INERT_PARAMETERS.items() if spec.default != []}
    return msgspec.convert(inert | vm.migrations.parameters.as_qmp(), MigrationParameters)


def migrate_set_capabilities(vm: MonitoredVm, arguments: MigrateSetCapabilities) -> None:
    """Switch migration capabilities on or off; not while a migration runs."""
    states = {item.capability: item.state for item in arguments.capabilities}
    vm.migrations.set_capabilities(vm.migrations.capabilities.changed(states))


def query_migrate_capabilities(vm: MonitoredVm) -> list[MigrationCapabilityStatus]:
    """Return all migration capabilities."""
    return [
        MigrationCapabilityStatus(capability=name, state=state)
        for name, state in vm.migrations.capabilities.as_qmp().items()
    ]
