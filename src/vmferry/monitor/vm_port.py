"""What the monitor needs of a VM process, and nothing else; `vm/` implements it."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

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
    """Of the events that were asked for, those that it does not have any more. They were before the first of the lines
    that does not begin the migration."""


class MonitoredVm(Protocol):
    """A VM under control.

    All methods are called in the monitor's thread and return at once, but `save_memory` and `migrate_incoming`, which
    may take long, are called in threads of their own. Any method may raise VmferryError; its text is what the client
    reads.
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
    def parameters(self) -> MigrationParameters:
        """The migration parameters in force."""
        ...

    @property
    def capabilities(self) -> MigrationCapabilities:
        """The migration capabilities in force."""
        ...

    @property
    def tracer(self) -> Tracer:
        """What prints trace events."""
        ...

    def run_state(self) -> RunState:
        """Return what the VM is doing."""
        ...

    def stop(self) -> None:
        """Pause the guest; harmless if it is paused."""
        ...

    def cont(self, *, force: bool = False) -> None:
        """Let the guest run; with `force`, also one whose hand-over is in doubt."""
        ...

    def system_powerdown(self) -> None:
        """Ask the guest to power down."""
        ...

    def quit(self) -> None:
        """End the VM process soon after this call."""
        ...

    def vcpu_thread_ids(self) -> list[int]:
        """Return the kernel's thread id of each vCPU, in order."""
        ...

    @property
    def memory_bytes(self) -> int:
        """Size of guest RAM."""
        ...

    def save_memory(self, gpa: int, size_bytes: int, path: str) -> None:
        """Write a piece of guest physical memory to a file; in any thread."""
        ...

    def migrate(self, uri: str) -> None:
        """Begin to migrate to `uri`."""
        ...

    def migrate_incoming(self, uri: str) -> None:
        """Begin to wait at `uri` for a guest; in any thread."""
        ...

    def migrate_cancel(self) -> None:
        """Call the outgoing migration off; harmless if there is none."""
        ...

    def migrate_continue(self, state: MigrationStatus) -> None:
        """Let a migration that waits in `state` go on."""
        ...

    def query_migrate(self) -> MigrationInfo:
        """Return the state of the latest migration."""
        ...

    def migration_record(self, first: int | None) -> RecordPart:
        """Return what was recorded of the latest outgoing migration, from the event of that number on."""
        ...

    def calc_dirty_rate(self, request: DirtyRateRequest) -> None:
        """Begin to measure the dirty rate."""
        ...

    def query_dirty_rate(self) -> DirtyRateInfo:
        """Return the latest measurement."""
        ...

    def set_parameters(self, parameters: MigrationParameters) -> None:
        """Put migration parameters in force, also for a running migration."""
        ...

    def set_capabilities(self, capabilities: MigrationCapabilities) -> None:
        """Put migration capabilities in force. Raises UsageError while a migration runs."""
        ...

    def subscribe(self, callback: Callable[[VmEvent], None]) -> None:
        """Call `callback` for every event from now on, in whichever thread it happens."""
        ...
