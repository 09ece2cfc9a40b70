"""A virtual machine as its monitor sees it, put together: a guest, who may run it, its migrations, its events."""

from collections.abc import Callable

from vmferry.clock import MonotonicClock
from vmferry.errors import CancelledError
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.migration.ports import Journal
from vmferry.migration.trace import Tracer
from vmferry.monitor.vm_port import VmEvent
from vmferry.vm.dirty_rate import DirtyRateMeter
from vmferry.vm.event_feed import EventFeed
from vmferry.vm.memory_files import MemoryFiles
from vmferry.vm.migrations import Migrations
from vmferry.vm.ports import VmPorts
from vmferry.vm.run_control import RunControl

_MEMORY_FILES_END_TIMEOUT_S = 1.0


class VirtualMachine:
    """One guest under control (implements the monitor's `MonitoredVm`).

    `awaits_guest` says that the guest is to come from elsewhere, `start_paused` that it waits for `cont` then, even if
    it runs at the source. `log` is told what an operator should read.
    """

    def __init__(
        self,
        guest: KvmGuest,
        name: str,
        uuid: str,
        journal: Journal,
        log: Callable[[str], None],
        tracer: Tracer,
        *,
        awaits_guest: bool,
        start_paused: bool,
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.tracer = tracer
        self.on_end: Callable[[int], None] = lambda exit_code: None
        """Called, in any thread, with the exit code when this process has no more to do."""
        self._guest = guest
        self._log = log
        self._quitting = False
        ports = VmPorts(MonotonicClock(), log, self._check_quit)
        self._events = EventFeed(guest)
        self._memory_files = MemoryFiles(self._check_quit)
        self.run_control = RunControl(guest, self._events, awaits_guest=awaits_guest, start_paused=start_paused)
        self.dirty_rate = DirtyRateMeter(guest, ports.clock, lambda: self.run_control.leaving, log)
        self.migrations = Migrations(
            guest,
            self.run_control,
            self._events,
            self.dirty_rate,
            ports,
            [journal, tracer],
            lambda: self.on_end(1),
        )
        guest.on_crash = self._on_crash

    def vcpu_thread_ids(self) -> list[int]:
        """Return the kernel's thread ids of the vCPUs, in order."""
        return self._guest.vcpu_thread_ids

    @property
    def memory_bytes(self) -> int:
        """Size of guest RAM."""
        return self._guest.layout.size_bytes

    def save_memory(self, gpa: int, size_bytes: int, path: str) -> None:
        """Write a piece of guest physical memory to a file. Raises UsageError if either is not to be had."""
        self._memory_files.write(self._guest.physical_memory(gpa, size_bytes), path)

    def subscribe(self, callback: Callable[[VmEvent], None]) -> None:
        """Call `callback` for every event from now on, in whichever thread it happens."""
        self._events.subscribe(callback)

    def system_powerdown(self) -> None:
        """Ask the guest to power down. As it has no ACPI, it cannot hear that; only those who watch can."""
        self._events.emit("POWERDOWN", {})

    def quit(self) -> None:
        """End this process; a running migration is cancelled first."""
        if self._quitting:
            return
        self._quitting = True
        self.migrations.cancel()
        self._events.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        self.on_end(0)

    def end_threads(self, timeout_s: float) -> None:
        """End a measurement and what is written to files, and give a migration time to end."""
        self.dirty_rate.stop()
        self._memory_files.end(_MEMORY_FILES_END_TIMEOUT_S)
        self.migrations.join(timeout_s)

    def _check_quit(self) -> None:
        if self._quitting:
            raise CancelledError("this process is ending")

    def _on_crash(self, reason: str) -> None:
        self._log(f"{reason}; its memory can still be read through the monitor")
        self._events.emit("GUEST_PANICKED", {"action": "pause"})
        self._events.tell_whether_it_runs()
