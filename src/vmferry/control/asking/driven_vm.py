"""What is behind a monitor and what it can do, asked of the monitor itself."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from vmferry.client.answers import SchemaEntry
from vmferry.client.monitor import Monitor
from vmferry.convergence.variants import Variant, find_variant
from vmferry.errors import MonitorError


@dataclass(frozen=True)
class DrivenVm:
    """A VM as its monitor describes it."""

    name: str
    """Such as `QEMU 7.2.22` or `vmferry 0.1.0`."""
    schema: "Schema"
    parameters: dict[str, object]
    """Its migration parameters and their values when it was asked."""
    capabilities: dict[str, bool]
    """Its migration capabilities and their states when it was asked."""
    kvm: bool
    """True if KVM runs its vCPUs, and not an emulation of them."""

    @classmethod
    def ask(cls, monitor: Monitor) -> "DrivenVm":
        """Ask the monitor. Raises MonitorError; CommandError if it knows no migration."""
        schema = Schema(monitor.execute("query-qmp-schema"))
        parameters = dict(monitor.execute("query-migrate-parameters"))
        return cls(
            name=_name(monitor.execute("query-version")),
            schema=schema,
            parameters=parameters,
            capabilities={
                entry["capability"]: entry["state"] for entry in monitor.execute("query-migrate-capabilities")
            },
            kvm=_is_ours(parameters) or _has_kvm(monitor, schema),
        )

    @property
    def converges_responsively(self) -> bool:
        """True if it makes the decisions of the patch series by itself, so that nobody needs to from outside."""
        return _is_ours(self.parameters)


def _is_ours(parameters: Mapping[str, object]) -> bool:
    return "cpu-responsive-throttle" in parameters


def _has_kvm(monitor: Monitor, schema: "Schema") -> bool:
    return schema.has_command("query-kvm") and bool(monitor.execute("query-kvm")["enabled"])


_NOTHING = SchemaEntry(name="", meta_type="")


class Schema:
    """The answer to `query-qmp-schema`: which commands there are, with which arguments and words."""

    def __init__(self, answer: object) -> None:
        self._entries = {entry.name: entry for entry in msgspec.convert(answer, list[SchemaEntry])}

    def has_command(self, name: str) -> bool:
        """True if there is such a command."""
        return self._entry(name).meta_type == "command"

    def argument_types(self, command: str) -> dict[str, str]:
        """Return the names of a command's arguments and the names of their types; empty if there is no such command."""
        arguments = self._entry(self._entry(command).arg_type)
        return {member.name: member.type for member in arguments.members}

    def words(self, enum_type: str) -> tuple[str, ...]:
        """Return the words of an enum type; none if it is not one."""
        return tuple(self._entry(enum_type).values)

    def _entry(self, name: str) -> SchemaEntry:
        return self._entries.get(name, _NOTHING)


def own_variant(version: Mapping[str, Any] | None) -> Variant:
    """Return how a QEMU converges by itself, by its answer to `query-version`: since 9.2 it syncs within iterations."""
    match version:
        case {"qemu": {"major": int(major), "minor": int(minor)}} if (major, minor) >= (9, 2):
            return find_variant("periodic-sync")
        case _:
            return find_variant("original")


def _name(version: Mapping[str, Any] | None) -> str:
    match version:
        case {"package": str(package)} if package.startswith("vmferry"):
            return package
        case {"qemu": {"major": int(major), "minor": int(minor), "micro": int(micro)}}:
            return f"QEMU {major}.{minor}.{micro}"
        case _:
            raise MonitorError("the monitor does not say which version it is of")
