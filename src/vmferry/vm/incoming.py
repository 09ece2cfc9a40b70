"""The receiving end of a migration: wait for a source, take the guest over.

Nobody ends the wait but a guest that is here, or whoever runs this process: a migration that fails, at whatever
point before Commit, leaves memory zero as it was, and the next source may come.
"""

import secrets
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from vmferry.errors import CancelledError, VmferryError
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.ports import Journal
from vmferry.migration.receiver import Receiver
from vmferry.migration.status import MigrationStatus
from vmferry.settings.parameters import MigrationParameters
from vmferry.transport.multifd_receiver import MultifdReceiver
from vmferry.transport.stream import StreamChannel
from vmferry.transport.tls import TlsServer
from vmferry.vm.ports import VmPorts
from vmferry.vm.reception import Caller, Reception
from vmferry.vm.sparing_log import SparingLog
from vmferry.wire.format import NONCE_BYTES


@dataclass(frozen=True)
class Listener:
    """Where sources connect, and what they have to bring."""

    socket: socket.socket
    token: bytes = b""
    """What a source has to know; empty if there is none."""
    tls: TlsServer | None = None
    """If there is one, whoever connects must have a certificate before it is listened to."""


class IncomingMigration:
    """Takes one guest in through `listener`.

    `parameters` is asked at every use. The guest runs on if it ran and `may_run` says so. The operator is told of
    connections turned away and of migrations that failed.
    """

    def __init__(
        self,
        guest: KvmGuest,
        listener: Listener,
        ports: VmPorts,
        journal: Journal,
        parameters: Callable[[], MigrationParameters],
        may_run: Callable[[], bool],
    ) -> None:
        self._guest = guest
        self._listener = listener
        self._clock = ports.clock
        self._check_end = ports.check_end
        self._journal = journal
        self._parameters = parameters
        self._may_run = may_run
        self._log = SparingLog(ports.clock, ports.log)
        self._strangers_log = SparingLog(ports.clock, ports.log)
        self._destination: MigrationDestination | None = None
        self.origin = ""
        """Where the latest source is."""
        self.duration_ns = 0
        """How long its migration took."""

    @property
    def status(self) -> MigrationStatus:
        """The status of the migration that has begun; `setup` while none has."""
        destination = self._destination  # which the thread that receives may take away meanwhile
        return destination.status if destination else MigrationStatus.SETUP

    def run(self) -> None:
        """Return when the guest belongs here. Raises CancelledError if the process ends."""
        sources = self._listener.socket
        with closing(
            Reception(sources, self._clock, self._open_channel, self._make_destination, self._strangers_log)
        ) as reception:
            while not (self._destination and self._destination.in_charge):
                caller = reception.next_source(self._check_end)
                self._destination = caller.destination
                self.origin, start_ns = caller.channel.peer, self._clock.now_ns()
                self._log(f"a guest begins to come from {self.origin}")
                self._receive(caller, reception)
                self.duration_ns = self._clock.now_ns() - start_ns

    def _open_channel(self, connection: socket.socket) -> StreamChannel:
        tls = self._listener.tls
        return StreamChannel(tls.wrap(connection) if tls else connection, self._guest)

    def _make_destination(self) -> MigrationDestination:
        credentials = Credentials(secrets.token_bytes(NONCE_BYTES), self._listener.token)
        tells_reasons = self._listener.tls is not None
        return MigrationDestination(
            self._guest, self._clock, self._journal, credentials, self._may_run, tells_reasons=tells_reasons
        )

    def _receive(self, caller: Caller, reception: Reception) -> None:
        channel = MultifdReceiver(caller.channel, caller.page_channels) if caller.page_channels else caller.channel
        try:
            with closing(self._guest.populator()) as populator:
                receiver = Receiver(
                    channel,
                    caller.destination,
                    self._clock,
                    lambda: self._parameters().stall_timeout_ns,
                    self._check_end,
                    populator.about_to_fill,
                )
                if isinstance(channel, MultifdReceiver):
                    channel.start(receiver)
                receiver.run(caller.first)
        except VmferryError as error:
            caller.close_page_channels()
            if caller.destination.in_charge:
                raise
            reception.see_off(caller)
            self._destination = None
            if isinstance(error, CancelledError):
                raise
            self._log(f"incoming migration failed: {error}; waiting for the next source")
        else:
            channel.close()
