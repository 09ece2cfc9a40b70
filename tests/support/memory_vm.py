"""A VM for monitors: it keeps its state in memory and follows the rules of `MonitoredVm`."""

import time
from collections.abc import Callable

from vmferry.errors import UsageError
from vmferry.migration.dirty_rate import DirtyRateInfo, DirtyRateRequest, DirtyRateStatus
from vmferry.migration.info import MigrationInfo
from vmferry.migration.status import MigrationStatus
from vmferry.migration.trace import Tracer
from vmferry.monitor.vm_port import RecordPart, RunState, VmEvent
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.parameters import MigrationParameters
from vmferry.transport.uri import parse_uri
from vmferry.vm.memory_files import MemoryFiles
from vmferry.vm.record import MigrationRecord


class MemoryVm:
    name = "guest-7"
    memory_bytes = 1 << 16
    uuid = "c0ffee00-1234-5678-9abc-def012345678"

    def __init__(self) -> None:
        self.parameters = MigrationParameters()
        self.capabilities = MigrationCapabilities()
        self.migration = MigrationInfo(status=MigrationStatus.NONE)
        self.traced: list[str] = []
        self.tracer = Tracer(self.traced.append)
        self.uris: list[str] = []
        self.has_quit = False
        self.dirty_rate = DirtyRateInfo()
        self.record = MigrationRecord()
        self._memory_files = MemoryFiles(lambda: None)
        self._running = True
        self._subscribers: list[Callable[[VmEvent], None]] = []

    def run_state(self) -> RunState:
        return RunState.RUNNING if self._running else RunState.PAUSED

    def stop(self) -> None:
        if self._running:
            self._running = False
            self.emit("STOP")

    def cont(self, *, force: bool = False) -> None:
        if not self._running:
            self._running = True
            self.emit("RESUME")

    def system_powerdown(self) -> None:
        self.emit("POWERDOWN")

    def quit(self) -> None:
        self.has_quit = True
        self.emit("SHUTDOWN", guest=False, reason="host-qmp-quit")

    def vcpu_thread_ids(self) -> list[int]:
        return [4711, 4712]

    def save_memory(self, gpa: int, size_bytes: int, path: str) -> None:
        if not 0 <= gpa <= gpa + size_bytes <= self.memory_bytes:
            raise UsageError("there is no such memory")
        self._memory_files.write(memoryview(bytes(size_bytes)), path)

    def migration_record(self, first: int | None) -> RecordPart:
        return self.record.since(first)

    def migrate(self, uri: str) -> None:
        self._check_idle()
        parse_uri(uri)
        self.uris.append(uri)
        self.set_status(MigrationStatus.SETUP)

    def migrate_incoming(self, uri: str) -> None:
        raise UsageError("'-incoming' was not specified on the command line")

    def migrate_cancel(self) -> None:
        if self.migration.status.is_running:
            self.set_status(MigrationStatus.CANCELLED)

    def migrate_continue(self, state: MigrationStatus) -> None:
        if self.migration.status is not state:
            raise UsageError(f"Migration not in expected state: {self.migration.status}")
        if state is MigrationStatus.PRE_SWITCHOVER:
            self.set_status(MigrationStatus.DEVICE)

    def query_migrate(self) -> MigrationInfo:
        return self.migration

    def calc_dirty_rate(self, request: DirtyRateRequest) -> None:
        if self.dirty_rate.status is DirtyRateStatus.MEASURING:
            raise UsageError("the dirty rate is already being measured.")
        self.dirty_rate = DirtyRateInfo(
            status=DirtyRateStatus.MEASURING,
            mode=request.mode,
            period_ms=request.period_ms,
            sample_pages_per_gib=request.sample_pages_per_gib or 0,
        )

    def query_dirty_rate(self) -> DirtyRateInfo:
        return self.dirty_rate

    def set_status(self, status: MigrationStatus) -> None:
        self.migration = MigrationInfo(status=status)
        if self.capabilities.events:
            self.emit("MIGRATION", status=status.value)

    def set_parameters(self, parameters: MigrationParameters) -> None:
        self.parameters = parameters

    def set_capabilities(self, capabilities: MigrationCapabilities) -> None:
        self._check_idle()
        self.capabilities = capabilities

    def subscribe(self, callback: Callable[[VmEvent], None]) -> None:
        self._subscribers.append(callback)

    def emit(self, name: str, **data: object) -> None:
        event = VmEvent(name, data, time.time_ns())
        for callback in self._subscribers:
            callback(event)

    def _check_idle(self) -> None:
        if self.migration.status.is_running:
            raise UsageError("There's a migration process in progress")
