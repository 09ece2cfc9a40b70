"""A virtual machine as its monitor sees it: run state, migrations out and in, events.

The monitor's thread calls the public methods, a thread of its own carries out each migration. The run
state is not stored but derived from the guest and the migration, so that they cannot disagree.
"""

import contextlib
import secrets
import threading
from collections.abc import Callable

from vmferry.errors import CancelledError, GuestError, UsageError, VmferryError
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.migration.dirty_rate import DirtyRateInfo, DirtyRateMode, DirtyRateRequest
from vmferry.migration.events import Event, LinkStalled, StatusChanged, SwitchoverBegan, SwitchoverFailed, Synced
from vmferry.migration.handshake import Credentials
from vmferry.migration.info import MigrationInfo
from vmferry.migration.journal import TeeJournal
from vmferry.migration.ports import Channel, Journal
from vmferry.migration.source import MigrationSource
from vmferry.migration.status import MigrationStatus
from vmferry.migration.trace import Tracer
from vmferry.monitor.vm_port import RecordPart, RunState, VmEvent
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.parameters import MigrationParameters
from vmferry.transport.sockets import connect, listen, local_address
from vmferry.transport.stream import StreamChannel
from vmferry.transport.uri import parse_uri
from vmferry.vm.clock import MonotonicClock
from vmferry.vm.dirty_rate import DirtyRateMeter
from vmferry.vm.event_feed import EventFeed
from vmferry.vm.incoming import IncomingMigration
from vmferry.vm.memory_files import MemoryFiles
from vmferry.vm.record import MigrationRecord
from vmferry.vm.telling import arrival, departure
from vmferry.vm.token_file import read_token
from vmferry.wire.format import DESTINATION_FRAMES, NONCE_BYTES

_MEMORY_FILES_END_TIMEOUT_S = 1.0


class Vm:
    """One guest under control (implements the monitor's `MonitoredVm`).

    `awaits_migration` says that the guest is to come from elsewhere, `start_paused` that it waits for `cont` then,
    even if it runs at the source. `log` is told what an operator should read.
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
        awaits_migration: bool,
        start_paused: bool,
    ) -> None:
        self.name = name
        self.uuid = uuid
        self.parameters = MigrationParameters()
        self.capabilities = MigrationCapabilities()
        self._guest = guest
        guest.on_crash = self._on_crash
        self.tracer = tracer
        self._record = MigrationRecord()
        self._journal = TeeJournal([_Observer(self._on_migration_event), self._record, journal, tracer])
        self._log = log
        self.on_end: Callable[[int], None] = lambda exit_code: None
        """Called, in any thread, with the exit code when this process has no more to do."""
        self._awaits_migration = awaits_migration
        self._clock = MonotonicClock()
        self._dirty_rate = DirtyRateMeter(guest, self._clock, log)
        self._memory_files = MemoryFiles(self._check_quit)
        self._source: MigrationSource | None = None
        self._incoming: IncomingMigration | None = None
        self._incoming_uri: str | None = None
        self._incoming_lock = threading.Lock()
        self._migration_thread: threading.Thread | None = None
        self._events = EventFeed(guest)
        self._run_lock = threading.Lock()
        """Orders `stop` and `cont` against the beginning of a hand-over."""
        self._handing_over = False
        self._runs_on_arrival = False if start_paused else None
        """Whether the guest, which is yet to come, is to run then; None: if it runs at the source."""
        self._quitting = False

    # Run state

    @property
    def _in_doubt(self) -> bool:
        return self._source is not None and self._source.status is MigrationStatus.IN_DOUBT

    def run_state(self) -> RunState:
        """Return the state in QEMU's words."""
        if self._guest.crash:
            return RunState.GUEST_PANICKED if self._guest.panicked else RunState.INTERNAL_ERROR
        if self._awaits_migration:
            return RunState.INMIGRATE
        if self._source and self._source.status is MigrationStatus.COMPLETED:
            return RunState.POSTMIGRATE
        if self._in_doubt:
            return RunState.IN_DOUBT
        if self._handing_over:
            return RunState.FINISH_MIGRATE
        return RunState.RUNNING if self._guest.running else RunState.PAUSED

    def stop(self) -> None:
        """Pause the guest, also one that is yet to come; harmless if it is paused."""
        with self._run_lock:
            self._runs_on_arrival = False
            if self._handing_over and self._source:
                self._source.keep_paused()
            else:
                self._guest.pause()
        self._events.tell_whether_it_runs()

    def cont(self, *, force: bool = False) -> None:
        """Let the guest run, or if it is yet to come, when it is here. Raises UsageError if it is not ours to run.

        With `force`, a guest whose hand-over is in doubt is ours from now on.
        """
        if force and self._source and self._in_doubt:
            self._source.take_back()
        with self._run_lock:
            if self._awaits_migration:
                self._runs_on_arrival = True
                return
            refusal = _REFUSALS_TO_RUN.get(self.run_state())
            if refusal:
                raise UsageError(refusal)
            self._guest.resume()
        self._events.tell_whether_it_runs()

    def system_powerdown(self) -> None:
        """Ask the guest to power down. As it has no ACPI, it cannot hear that; only those who watch can."""
        self._events.emit("POWERDOWN", {})

    def quit(self) -> None:
        """End this process; a running migration is cancelled first."""
        if self._quitting:
            return
        self._quitting = True
        self.migrate_cancel()
        self._events.emit("SHUTDOWN", {"guest": False, "reason": "host-qmp-quit"})
        self.on_end(0)

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

    # Migration

    def set_parameters(self, parameters: MigrationParameters) -> None:
        """Put new parameters in force, also for a running migration as far as it still asks."""
        self.parameters = parameters

    def set_capabilities(self, capabilities: MigrationCapabilities) -> None:
        """Put new capabilities in force. Raises UsageError while a migration runs."""
        if self._source and self._source.status.is_running:
            raise UsageError("There's a migration process in progress")
        self.capabilities = capabilities

    def migrate(self, uri: str) -> None:
        """Begin to migrate to `uri`. Raises UsageError if that cannot be begun."""
        if self._awaits_migration:
            raise UsageError("Guest is waiting for an incoming migration")
        if self._source and self._source.status.is_running:
            raise UsageError("There's a migration process in progress")
        if self._source and self._source.status is MigrationStatus.COMPLETED:
            raise UsageError("Can't migrate the vm that was paused due to previous migration")
        if self._in_doubt:
            raise UsageError(_IN_DOUBT)
        address = parse_uri(uri)
        token = read_token(self.parameters.token_file)

        def open_channel(while_blocked: Callable[[], None]) -> Channel:
            return StreamChannel(connect(address, while_blocked), self._guest, DESTINATION_FRAMES)

        self._source = MigrationSource(
            self._guest,
            open_channel,
            self._clock,
            self._journal,
            lambda: self.parameters,
            self.capabilities,
            Credentials(secrets.token_bytes(NONCE_BYTES), token),
        )
        self._start_thread("migration", self._run_source, self._source, uri)

    def migrate_incoming(self, uri: str) -> None:
        """Listen at `uri` for the guest. Raises UsageError or ChannelError if that cannot be."""
        with self._incoming_lock:
            if self._incoming:
                raise UsageError("The incoming migration has already been started")
            if not self._awaits_migration:
                raise UsageError("'-incoming' was not specified on the command line")
            token = read_token(self.parameters.token_file)
            listener = listen(parse_uri(uri), self._check_quit)
            self._incoming_uri = str(local_address(listener))
            self._incoming = IncomingMigration(
                self._guest,
                listener,
                token,
                self._clock,
                self._journal,
                lambda: self.parameters,
                lambda: self._runs_on_arrival is not False,
                self._check_quit,
                self._log,
            )
            self._log(f"waits for a guest at {self._incoming_uri}")
            self._start_thread("incoming", self._run_incoming, self._incoming)

    def migrate_cancel(self) -> None:
        """Cancel the outgoing migration, if one runs."""
        if self._source:
            self._source.cancel()

    def migrate_continue(self, state: MigrationStatus) -> None:
        """Let a migration that waits in `state` go on. Raises UsageError if none is in that state."""
        if self._source:
            self._source.continue_from(state)
        elif state is not MigrationStatus.NONE:
            raise UsageError(f"Migration not in expected state: {MigrationStatus.NONE}")

    def query_migrate(self) -> MigrationInfo:
        """Return the figures of the latest migration."""
        if self._source:
            return self._source.info()
        if self._incoming:
            status = self._incoming.status
            listens = status is not MigrationStatus.COMPLETED
            return MigrationInfo(status=status, socket_address=self._incoming_uri if listens else None)
        return MigrationInfo(status=MigrationStatus.NONE)

    def migration_record(self, first: int | None) -> RecordPart:
        """Return what was recorded of the latest outgoing migration, from the event of that number on."""
        return self._record.since(first)

    def calc_dirty_rate(self, request: DirtyRateRequest) -> None:
        """Begin to measure the dirty rate. Raises UsageError if that cannot be done now."""
        if request.mode is DirtyRateMode.DIRTY_BITMAP and self._source and self._source.status.is_running:
            raise UsageError(
                "the running migration uses the dirty log; see dirty-pages-rate of query-migrate, or use page-sampling"
            )
        self._dirty_rate.start(request)

    def query_dirty_rate(self) -> DirtyRateInfo:
        """Return the latest measurement."""
        return self._dirty_rate.info

    def end_threads(self, timeout_s: float) -> None:
        """End a measurement and what is written to files, and give a migration time to end."""
        self._dirty_rate.stop()
        self._memory_files.end(_MEMORY_FILES_END_TIMEOUT_S)
        if self._migration_thread:
            self._migration_thread.join(timeout_s)

    def _start_thread(self, name: str, run: Callable[..., None], *arguments: object) -> None:
        self._migration_thread = threading.Thread(target=run, args=arguments, name=name, daemon=True)
        self._migration_thread.start()

    def _run_source(self, source: MigrationSource, uri: str) -> None:
        try:
            self._dirty_rate.free_dirty_log()
            source.run()
        finally:
            self._events.tell_whether_it_runs()
            self._log(departure(uri, source.info()))

    def _run_incoming(self, incoming: IncomingMigration) -> None:
        try:
            incoming.run()
        except CancelledError:
            return
        except VmferryError as error:
            self._log(f"incoming migration failed: {error}")
            self.on_end(1)
        except BaseException:
            self.on_end(1)  # a defect of ours; nobody waits for a guest that cannot come any more
            raise
        else:
            with self._run_lock, contextlib.suppress(GuestError):  # it has crashed, which its owner is told otherwise
                self._awaits_migration = False
                if self._runs_on_arrival:
                    self._guest.resume()
                elif self._runs_on_arrival is False:  # said a moment too late for `may_run`
                    self._guest.pause()
            self._log(arrival(incoming.origin, incoming.duration_ns, running=self._guest.running))
            self._events.tell_whether_it_runs()
            self._emit_status(MigrationStatus.COMPLETED)

    def _check_quit(self) -> None:
        if self._quitting:
            raise CancelledError("this process is ending")

    # Events

    def _on_crash(self, reason: str) -> None:
        self._log(f"{reason}; its memory can still be read through the monitor")
        self._events.emit("GUEST_PANICKED", {"action": "pause"})
        self._events.tell_whether_it_runs()

    def subscribe(self, callback: Callable[[VmEvent], None]) -> None:
        """Call `callback` for every event from now on, in whichever thread it happens."""
        self._events.subscribe(callback)

    def _on_migration_event(self, event: Event) -> None:
        match event:
            case SwitchoverBegan():
                self._set_handing_over(True)
            case SwitchoverFailed():
                self._set_handing_over(False)
                self._events.tell_whether_it_runs()
            case StatusChanged(new=status):
                if not status.is_running:
                    self._set_handing_over(False)
                self._events.tell_whether_it_runs()
                if not (self._awaits_migration and status is MigrationStatus.COMPLETED):
                    self._emit_status(status)  # a destination's follows RESUME, as in QEMU
            case LinkStalled(duration_ns=duration_ns, over=over):
                stood = "moves again after" if over else "has stood still for"
                self._log(f"the migration's link {stood} {duration_ns / 1e9:.1f} s")
            case Synced(kind="iteration", iteration_count=count):
                self._emit_if_asked("MIGRATION_PASS", {"pass": count})

    def _set_handing_over(self, handing_over: bool) -> None:
        with self._run_lock:
            self._handing_over = handing_over

    def _emit_status(self, status: MigrationStatus) -> None:
        self._emit_if_asked("MIGRATION", {"status": status.value})

    def _emit_if_asked(self, name: str, data: dict[str, object]) -> None:
        if self.capabilities.events:
            self._events.emit(name, data)


_IN_DOUBT = (
    "the hand-over is in doubt: the guest may run at the destination. Look there with query-status; only if it is "
    "neither running nor paused there, take it back with cont force=true (HMP: cont -f)"
)

_REFUSALS_TO_RUN = {
    RunState.IN_DOUBT: _IN_DOUBT,
    RunState.FINISH_MIGRATE: "Migration is not finalized yet",
    RunState.POSTMIGRATE: "the guest was handed over and belongs to the destination now",
    RunState.GUEST_PANICKED: "the guest has crashed and cannot run on",
    RunState.INTERNAL_ERROR: "the guest cannot run on after an error of KVM's",
}


class _Observer:
    """A journal that passes events on."""

    def __init__(self, callback: Callable[[Event], None]) -> None:
        self._callback = callback

    def record(self, time_ns: int, event: Event) -> None:
        self._callback(event)
