"""A modelled QEMU: what its monitor's commands do."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from vmferry.simulation.qemu.destination import unknown
from vmferry.simulation.qemu.dirty_rate import ModelledDirtyRate
from vmferry.simulation.qemu.host import POSTMIGRATE, RUNNING, Host
from vmferry.simulation.qemu.migration import ModelledMigration
from vmferry.simulation.qemu.schema import schema
from vmferry.simulation.qemu.settings import check_argument, refuse

_NO_DIRTY_RING = "dirty page limit feature requires KVM with accelerator property 'dirty-ring-size' set'"
_FIRST_THREAD_ID = 4_194_304
"""The first thread has this number, which no thread of Linux has."""
_PROTOCOLS = ("tcp:", "unix:", "exec:", "fd:", "vsock:", "file:")


class ModelledQemu:
    """Carries out commands on a host's guest, under KVM without a dirty ring."""

    def __init__(self, host: Host, random: np.random.Generator) -> None:
        self.host = host
        self.board = host.board
        self.is_there = True
        self.migration: ModelledMigration | None = None
        """The migration that was begun last."""
        self._meter = ModelledDirtyRate(host.board.clock, host.release, host.guest, host.log, random)

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """Carry out a QMP command. Raises CommandError."""
        if command.startswith("query-"):
            return self._query(command)
        match command:
            case "migrate":
                self._migrate(arguments)
            case "migrate_cancel":
                if self.migration:
                    self.migration.cancel()
            case "migrate-continue":
                self._continue(check_argument(arguments, "state", "str"))
            case "migrate-set-parameters":
                self.host.settings.set_parameters(arguments)
            case "migrate-set-capabilities":
                self._require_no_migration()
                self.host.settings.set_capabilities(arguments.get("capabilities"))
            case "calc-dirty-rate":
                self._meter.calculate(arguments)
            case "set-vcpu-dirty-limit":
                raise refuse(_NO_DIRTY_RING)
            case "stop" | "cont":
                self.host.set_running(command == "cont")
            case "cancel-vcpu-dirty-limit":
                pass
            case _:
                raise unknown(command)
        return {}

    def yank(self) -> None:
        """Break the migration's connection."""
        if self.migration is None or not self.migration.status.is_running:
            raise refuse("Yank instance not found")
        self.migration.break_connection()

    def _query(self, command: str) -> Any:
        host = self.host
        match command:
            case "query-migrate":
                return self.migration.answer() if self.migration else {}
            case "query-migrate-parameters":
                return dict(host.settings.parameters)
            case "query-migrate-capabilities":
                return host.settings.as_list()
            case "query-dirty-rate":
                return self._meter.answer()
            case "query-status":
                return {"status": host.run_state, "running": host.run_state == RUNNING}
            case "query-version":
                numbers = dict(zip(("major", "minor", "micro"), host.release.version, strict=True))
                return {"qemu": numbers, "package": "modelled"}
            case "query-kvm":
                return {"enabled": True, "present": True}
            case "query-cpus-fast":
                numbered = range(host.guest.layout.vcpu_count)
                return [{"cpu-index": number, "thread-id": _FIRST_THREAD_ID + number} for number in numbered]
            case "query-memory-size-summary":
                return {"base-memory": host.guest.layout.size_bytes, "plugged-memory": 0}
            case "query-qmp-schema":
                return schema(host.release)
        raise unknown(command)

    def _migrate(self, arguments: Mapping[str, Any]) -> None:
        uri = check_argument(arguments, "uri", "str")
        self._require_no_migration()
        if self.host.run_state == POSTMIGRATE:
            raise refuse("Can't migrate the vm that was paused due to previous migration")
        if not uri.startswith(_PROTOCOLS):
            raise refuse(f"unknown migration protocol: {uri}")
        self.migration = ModelledMigration(self.host, uri)

    def _continue(self, state: str) -> None:
        if not (self.migration and self.migration.go_on(state)):
            raise refuse(f"Migration not in expected state: {self.migration.status if self.migration else 'none'}")

    def _require_no_migration(self) -> None:
        if self.migration and self.migration.status.is_running:
            raise refuse("There's a migration process in progress")
