"""What the monitor needs of a VM process, and nothing else; `vm/` implements it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vmferry.migration.compression import CompressionSample
from vmferry.migration.dirty_rate import DirtyRateInfo, DirtyRateRequest
from vmferry.migration.info import MigrationInfo
from vmferry.migration.status import MigrationStatus
from vmferry.migration.trace import Tracer
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.parameters import MigrationParameters


class RunState(StrEnum):
    """QEMU's words (`qapi/run-state.json`) for the states that a VM of ours can be in, and one of ours: `in-doubt`."""

    RUNNING = "running"
    PAUSED = "paused"
    INMIGRATE = "inmigrate"
    POSTMIGRATE = "postmigrate"
    IN_DOUBT = "in-doubt"
    FINISH_MIGRATE = "finish-migrate"
    GUEST_PANICKED = "guest-panicked"
    INTERNAL_ERROR = "internal-error"
    SHUTDOWN = "shutdown"
    PRELAUNCH = "prelaunch"


@dataclass(frozen=True)
class VmEvent:
    """Something that happened to a VM, under QEMU's name, at `time_ns` after the Unix epoch."""

    name: str
    data: dict[str, object]
    time_ns: int


@dataclass(frozen=True)
class RecordPart:
    """Some of what a VM has recorded of its latest outgoing migration."""

    lines: list[str]
    """Lines of its journal, in order."""
    next: int
    """The number of the event after them."""
    dropped: int
    """How many of the events that were asked for it does not have any more. They were before the first line that does
    not begin the migration."""


class MonitoredRunControl(Protocol):
    """Who may run the guest."""

    def state(self) -> RunState:
        """Return what the VM is doing."""
        ...

    def stop(self) -> None:
        """Pause the guest; harmless if it is paused."""
        ...

    def cont(self, *, force: bool = False) -> None:
        """Let the guest run; with `force`, also one whose hand-over is in doubt."""
        ...


class MonitoredMigrations(Protocol):
    """The guest's migrations, out and in, and how they are to be done."""

    @property
    def parameters(self) -> MigrationParameters:
        """The parameters in force."""
        ...

    @property
    def capabilities(self) -> MigrationCapabilities:
        """The capabilities in force."""
        ...

    def set_parameters(self, parameters: MigrationParameters) -> None:
        """Put parameters in force, also for a running migration."""
        ...

    def set_capabilities(self, capabilities: MigrationCapabilities) -> None:
        """Put capabilities in force. Raises UsageError while a migration runs."""
        ...

    def start(self, uri: str) -> None:
        """Begin to migrate to `uri`."""
        ...

    def listen(self, uri: str) -> None:
        """Begin to wait at `uri` for a guest; in any thread."""
        ...

    def cancel(self) -> None:
        """Call the outgoing migration off; harmless if there is none."""
        ...

    def continue_from(self, state: MigrationStatus) -> None:
        """Let a migration that waits in `state` go on."""
        ...

    def info(self) -> MigrationInfo:
        """Return the state of the latest migration."""
        ...

    def record(self, first: int | None) -> RecordPart:
        """Return what was recorded of the latest outgoing migration, from the event of that number on."""
        ...

    def sample_compression(self) -> CompressionSample:
        """Return what packing some of the guest's pages comes to; in any thread."""
        ...


class MonitoredDirtyRate(Protocol):
    """Measures how fast the guest dirties memory."""

    @property
    def info(self) -> DirtyRateInfo:
        """The latest measurement."""
        ...

    def start(self, request: DirtyRateRequest) -> None:
        """Begin to measure."""
        ...


class MonitoredVm(Protocol):
    """A VM under control.

    All methods, and those of its parts, are called in the monitor's thread and return at once, but `save_memory`,
    `migrations.listen` and `migrations.sample_compression`, which may take long, are called in threads of their own.
    Any method may raise VmferryError; its text is what the client reads.
    """

    @property
    def name(self) -> str:
        """The VM's name; empty if it has none."""
        ...

    @property
    def uuid(self) -> str:
        """The VM's UUID in its usual spelling."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Size of guest RAM."""
        ...

    @property
    def tracer(self) -> Tracer:
        """What prints trace events."""
        ...

    @property
    def run_control(self) -> MonitoredRunControl:
        """Who may run the guest."""
        ...

    @property
    def migrations(self) -> MonitoredMigrations:
        """Its migrations."""
        ...

    @property
    def dirty_rate(self) -> MonitoredDirtyRate:
        """Its measurements."""
        ...

    def vcpu_thread_ids(self) -> list[int]:
        """Return the kernel's thread id of each vCPU, in order."""
        ...

    def save_memory(self, gpa: int, size_bytes: int, path: str) -> None:
        """Write a piece of guest physical memory to a file; in any thread."""
        ...

    def subscribe(self, callback: Callable[[VmEvent], None]) -> None:
        """Call `callback` for every event from now on, in whichever thread it happens."""
        ...

    def system_powerdown(self) -> None:
        """Ask the guest to power down."""
        ...

    def quit(self) -> None:
        """End the VM process soon after this call."""
        ...
