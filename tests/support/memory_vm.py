"""A VM for monitors: it keeps its state in memory and follows the rules of `MonitoredVm`."""

import time
from collections.abc import Callable

from vmferry.errors import UsageError
from vmferry.migration.compression import CompressionSample
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


class Events:
    def __init__(self) -> None:
        self._subscribers: list[Callable[[VmEvent], None]] = []

    def subscribe(self, callback: Callable[[VmEvent], None]) -> None:
        self._subscribers.append(callback)

    def emit(self, name: str, **data: object) -> None:
        event = VmEvent(name, data, time.time_ns())
        for callback in self._subscribers:
            callback(event)


class MemoryRunControl:
    def __init__(self, events: Events) -> None:
        self._events = events
        self._running = True

    def state(self) -> RunState:
        return RunState.RUNNING if self._running else RunState.PAUSED

    def stop(self) -> None:
        if self._running:
            self._running = False
            self._events.emit("STOP")

    def cont(self, *, force: bool = False) -> None:
        if not self._running:
            self._running = True
            self._events.emit("RESUME")


class MemoryMigrations:
    def __init__(self, events: Events) -> None:
        self.parameters = MigrationParameters()
        self.capabilities = MigrationCapabilities()
        self.latest = MigrationInfo(status=MigrationStatus.NONE)
        self.uris: list[str] = []
        self.recorded = MigrationRecord()
        self.sample = CompressionSample(page_count=512, ratio=2.5, bytes_per_s=300 << 20)
        self._events = events

    def set_parameters(self, parameters: MigrationParameters) -> None:
        self.parameters = parameters

    def set_capabilities(self, capabilities: MigrationCapabilities) -> None:
        self._check_idle()
        self.capabilities = capabilities

    def start(self, uri: str) -> None:
        self._check_idle()
        parse_uri(uri)
        self.uris.append(uri)
        self.set_status(MigrationStatus.SETUP)

    def listen(self, uri: str) -> None:
        raise UsageError("'-incoming' was not specified on the command line")

    def cancel(self) -> None:
        if self.latest.status.is_running:
            self.set_status(MigrationStatus.CANCELLED)

    def continue_from(self, state: MigrationStatus) -> None:
        if self.latest.status is not state:
            raise UsageError(f"Migration not in expected state: {self.latest.status}")
        if state is MigrationStatus.PRE_SWITCHOVER:
            self.set_status(MigrationStatus.DEVICE)

    def info(self) -> MigrationInfo:
        return self.latest

    def record(self, first: int | None) -> RecordPart:
        return self.recorded.since(first)

    def sample_compression(self) -> CompressionSample:
        return self.sample

    def set_status(self, status: MigrationStatus) -> None:
        self.latest = MigrationInfo(status=status)
        if self.capabilities.events:
            self._events.emit("MIGRATION", status=status.value)

    def _check_idle(self) -> None:
        if self.latest.status.is_running:
            raise UsageError("There's a migration process in progress")


class MemoryDirtyRate:
    def __init__(self) -> None:
        self.info = DirtyRateInfo()

    def start(self, request: DirtyRateRequest) -> None:
        if self.info.status is DirtyRateStatus.MEASURING:
            raise UsageError("the dirty rate is already being measured.")
        self.info = DirtyRateInfo(
            status=DirtyRateStatus.MEASURING,
            mode=request.mode,
            period_ms=request.period_ms,
            sample_pages_per_gib=request.sample_pages_per_gib or 0,
        )


class MemoryVm:
    name = "guest-7"
    memory_bytes = 1 << 16
    uuid = "c0ffee00-1234-5678-9abc-def012345678"

    def __init__(self) -> None:
        self.events = Events()
        self.run_control = MemoryRunControl(self.events)
        self.migrations = MemoryMigrations(self.events)
        self.dirty_rate = MemoryDirtyRate()
        self.traced: list[str] = []
        self.tracer = Tracer(self.traced.append)
        self.has_quit = False
        self._memory_files = MemoryFiles(lambda: None)

    def vcpu_thread_ids(self) -> list[int]:
        return [4711, 4712]

    def save_memory(self, gpa: int, size_bytes: int, path: str) -> None:
        if not 0 <= gpa <= gpa + size_bytes <= self.memory_bytes:
            raise UsageError("there is no such memory")
        self._memory_files.write(memoryview(bytes(size_bytes)), path)

    def subscribe(self, callback: Callable[[VmEvent], None]) -> None:
        self.events.subscribe(callback)

    def system_powerdown(self) -> None:
        self.events.emit("POWERDOWN")

    def quit(self) -> None:
        self.has_quit = True
        self.events.emit("SHUTDOWN", guest=False, reason="host-qmp-quit")
