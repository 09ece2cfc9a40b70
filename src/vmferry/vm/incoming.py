"""The receiving end of a migration: wait for a source, take the guest over.

Nobody ends the wait but a guest that is here, or whoever runs this process: a migration that fails, at whatever
point before Commit, leaves memory zero as it was, and the next source may come.
"""

import secrets
import socket
from collections.abc import Callable
from contextlib import closing

from vmferry.errors import CancelledError, VmferryError
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.ports import Clock, Journal
from vmferry.migration.receiver import Receiver
from vmferry.migration.status import MigrationStatus
from vmferry.settings.parameters import MigrationParameters
from vmferry.transport.multifd_receiver import MultifdReceiver
from vmferry.transport.stream import StreamChannel
from vmferry.transport.tls import TlsServer
from vmferry.vm.reception import Caller, Reception
from vmferry.vm.sparing_log import SparingLog
from vmferry.wire.format import NONCE_BYTES


class IncomingMigration:
    """Takes one guest in through `listener`, from a source that knows `token`, which is empty if there is none.

    With `tls`, whoever connects must have a certificate before it is listened to.

    `parameters` is asked at every use. The guest runs on if it ran and `may_run` says so. `check_stop` is called while
    waiting and raises to end the wait; `log` is told, in one line each, of connections turned away and of migrations
    that failed.
    """

    def __init__(
        self,
        guest: KvmGuest,
        listener: socket.socket,
        token: bytes,
        tls: TlsServer | None,
        clock: Clock,
        journal: Journal,
        parameters: Callable[[], MigrationParameters],
        may_run: Callable[[], bool],
        check_stop: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self._guest = guest
        self._listener = listener
        self._token = token
        self._tls = tls
        self._clock = clock
        self._journal = journal
        self._parameters = parameters
        self._may_run = may_run
        self._check_stop = check_stop
        self._log = SparingLog(clock, log)
        self._strangers_log = SparingLog(clock, log)
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
        """Return when the guest belongs here. Raises VmferryError if `check_stop` does."""
        with closing(
            Reception(self._listener, self._clock, self._open_channel, self._make_destination, self._strangers_log)
        ) as reception:
            while not (self._destination and self._destination.in_charge):
                caller = reception.next_source(self._check_stop)
                self._destination = caller.destination
                self.origin, start_ns = caller.channel.peer, self._clock.now_ns()
                self._log(f"a guest begins to come from {self.origin}")
                self._receive(caller, reception)
                self.duration_ns = self._clock.now_ns() - start_ns

    def _open_channel(self, connection: socket.socket) -> StreamChannel:
        return StreamChannel(self._tls.wrap(connection) if self._tls else connection, self._guest)

    def _make_destination(self) -> MigrationDestination:
        credentials = Credentials(secrets.token_bytes(NONCE_BYTES), self._token)
        return MigrationDestination(
            self._guest, self._clock, self._journal, credentials, self._may_run, tells_reasons=self._tls is not None
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
                    self._check_stop,
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
