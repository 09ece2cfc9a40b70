"""The migrations of a VM, one after the other: its guest leaves, or comes.

The monitor's thread calls the public methods, a thread of its own carries out each migration.
"""

import contextlib
import secrets
import threading
from collections.abc import Callable

import numpy as np

from vmferry.errors import CancelledError, GuestError, UsageError, VmferryError
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.migration.compression import CompressionSample
from vmferry.migration.handshake import Credentials
from vmferry.migration.info import MigrationInfo
from vmferry.migration.journal import TeeJournal
from vmferry.migration.ports import Journal
from vmferry.migration.source import MigrationSource
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.vm_port import RecordPart
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.parameters import MigrationParameters
from vmferry.transport.connector import Connector
from vmferry.transport.sockets import listen, local_address
from vmferry.transport.uri import parse_uri
from vmferry.vm.compression_sample import sample_compression
from vmferry.vm.dirty_rate import DirtyRateMeter
from vmferry.vm.event_feed import EventFeed
from vmferry.vm.incoming import IncomingMigration, Listener
from vmferry.vm.migration_watch import MigrationWatch
from vmferry.vm.ports import VmPorts
from vmferry.vm.record import MigrationRecord
from vmferry.vm.run_control import RunControl
from vmferry.vm.telling import arrival, departure
from vmferry.vm.tls import destination_tls, source_tls, what_is_missing
from vmferry.vm.token_file import read_token
from vmferry.wire.format import NONCE_BYTES


class Migrations:
    """Those of one guest (implements the monitor's `MonitoredMigrations`).

    `journals` get what happens; `on_lost` is called if a guest that was to come cannot come any more.
    """

    def __init__(
        self,
        guest: KvmGuest,
        run_control: RunControl,
        events: EventFeed,
        dirty_rate: DirtyRateMeter,
        ports: VmPorts,
        journals: list[Journal],
        on_lost: Callable[[], None],
    ) -> None:
        self.parameters = MigrationParameters()
        self.capabilities = MigrationCapabilities()
        self.require_tls = False
        """Whether migrations in clear are refused, out and in."""
        self._guest = guest
        self._run_control = run_control
        self._events = events
        self._dirty_rate = dirty_rate
        self._ports = ports
        self._on_lost = on_lost
        self._watch = MigrationWatch(run_control, events, lambda: self.capabilities.events, ports.log)
        self._record = MigrationRecord()
        self._journal = TeeJournal([self._watch, self._record, *journals])
        self._source: MigrationSource | None = None
        self._incoming: IncomingMigration | None = None
        self._incoming_uri: str | None = None
        self._incoming_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def set_parameters(self, parameters: MigrationParameters) -> None:
        """Put new parameters in force, also for a running migration as far as it still asks."""
        self.parameters = parameters

    def set_capabilities(self, capabilities: MigrationCapabilities) -> None:
        """Put new capabilities in force. Raises UsageError while a migration runs."""
        if self._run_control.leaving:
            raise UsageError("There's a migration process in progress")
        self.capabilities = capabilities

    def start(self, uri: str) -> None:
        """Begin to migrate to `uri`. Raises UsageError if that cannot be begun."""
        self._run_control.check_may_leave()
        address = parse_uri(uri)
        token = read_token(self.parameters.token_file)
        tls = source_tls(self.parameters, address)
        self._check_protected(tls)
        connector = Connector(address, self._guest, tls.wrap if tls else None)
        self._source = MigrationSource(
            self._guest,
            connector.connect,
            self._ports.clock,
            self._journal,
            lambda: self.parameters,
            self.capabilities,
            Credentials(secrets.token_bytes(NONCE_BYTES), token),
            connector.widen,
        )
        self._run_control.leave_by(self._source)
        self._start_thread("migration", self._send, self._source, uri)

    def listen(self, uri: str) -> None:
        """Wait at `uri` for the guest. Raises UsageError or ChannelError if that cannot be."""
        with self._incoming_lock:
            if self._incoming:
                raise UsageError("The incoming migration has already been started")
            if not self._run_control.awaits_guest:
                raise UsageError("'-incoming' was not specified on the command line")
            token = read_token(self.parameters.token_file)
            tls = destination_tls(self.parameters)
            self._check_protected(tls)
            listener = listen(parse_uri(uri), self._ports.check_end)
            address = local_address(listener)
            self._incoming_uri = str(address)
            self._incoming = IncomingMigration(
                self._guest,
                Listener(listener, token, tls),
                self._ports,
                self._journal,
                lambda: self.parameters,
                lambda: self._run_control.may_run_on_arrival,
            )
            self._ports.log(f"waits for a guest at {address}{' with TLS' if tls else ''}")
            if not tls and (danger := what_is_missing(address, token=bool(token))):
                self._ports.log(danger)
            self._start_thread("incoming", self._receive, self._incoming)

    def _check_protected(self, tls: object) -> None:
        if self.require_tls and not tls:
            raise UsageError("this VM migrates with TLS only (--require-tls); set tls-creds")

    def cancel(self) -> None:
        """Cancel the outgoing migration, if one runs."""
        if self._source:
            self._source.cancel()

    def continue_from(self, state: MigrationStatus) -> None:
        """Let a migration that waits in `state` go on. Raises UsageError if none is in that state."""
        if self._source:
            self._source.continue_from(state)
        elif state is not MigrationStatus.NONE:
            raise UsageError(f"Migration not in expected state: {MigrationStatus.NONE}")

    def info(self) -> MigrationInfo:
        """Return the figures of the latest migration."""
        if self._source:
            return self._source.info()
        if self._incoming:
            status = self._incoming.status
            listens = status is not MigrationStatus.COMPLETED
            return MigrationInfo(status=status, socket_address=self._incoming_uri if listens else None)
        return MigrationInfo(status=MigrationStatus.NONE)

    def record(self, first: int | None) -> RecordPart:
        """Return what was recorded of the latest outgoing migration, from the event of that number on."""
        return self._record.since(first)

    def sample_compression(self) -> CompressionSample:
        """Return what packing some of the guest's pages comes to, by as many threads as there would be."""
        channels = self.parameters.multifd_channels if self.capabilities.multifd else 1
        return sample_compression(self._guest, self.parameters.multifd_zstd_level, channels, np.random.default_rng())

    def join(self, timeout_s: float) -> None:
        """Give a migration time to end."""
        if self._thread:
            self._thread.join(timeout_s)

    def _start_thread(self, name: str, run: Callable[..., None], *arguments: object) -> None:
        self._thread = threading.Thread(target=run, args=arguments, name=name, daemon=True)
        self._thread.start()

    def _send(self, source: MigrationSource, uri: str) -> None:
        try:
            self._dirty_rate.free_dirty_log()
            source.run()
        finally:
            self._events.tell_whether_it_runs()
            self._ports.log(departure(uri, source.info()))

    def _receive(self, incoming: IncomingMigration) -> None:
        try:
            incoming.run()
        except CancelledError:
            return
        except VmferryError as error:
            self._ports.log(f"incoming migration failed: {error}")
            self._on_lost()
        except BaseException:
            self._on_lost()  # a defect of ours; nobody waits for a guest that cannot come any more
            raise
        else:
            with contextlib.suppress(GuestError):  # it has crashed, which its owner is told otherwise
                self._run_control.take_in()
            self._ports.log(arrival(incoming.origin, incoming.duration_ns, running=self._guest.running))
            self._events.tell_whether_it_runs()
            self._watch.tell_status(MigrationStatus.COMPLETED)
