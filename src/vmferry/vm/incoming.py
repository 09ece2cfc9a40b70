"""The receiving end of a migration: wait for a source, take the guest over.

A connection that does not even greet properly (a port scanner, a source with another guest), or that greets and
then sends nothing, is turned away and the wait goes on. Once a source has sent something, its failure is the end of
this process.
"""

import socket
from collections.abc import Callable
from contextlib import closing
from functools import partial

from vmferry.errors import ChannelError, VmferryError
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.ports import Clock, Journal
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Deadline
from vmferry.transport.sockets import accept, stop_listening
from vmferry.transport.stream import StreamChannel
from vmferry.wire.messages import Failed, Hello, Message, Pages

_HELLO_TIMEOUT_NS = 2_000_000_000
"""Sources greet at once, and one may be waiting behind a connection that does not; it waits much longer."""
_START_TIMEOUT_NS = 60_000_000_000
"""Between the greeting and the first pages a source switches the dirty log on, which takes long for much memory."""
_LINGER_NS = 1_000_000_000


class IncomingMigration:
    """Takes one guest in through `listener`.

    The guest runs on if it ran and `may_run` says so. `check_stop` is called while waiting and raises to end the
    wait; `log` is told, in one line each, of connections turned away.
    """

    def __init__(
        self,
        guest: KvmGuest,
        listener: socket.socket,
        clock: Clock,
        journal: Journal,
        may_run: Callable[[], bool],
        check_stop: Callable[[], None],
        log: Callable[[str], None],
    ) -> None:
        self._make_destination = partial(MigrationDestination, guest, clock, journal, may_run)
        self.destination = self._make_destination()
        self._guest = guest
        self._listener = listener
        self._clock = clock
        self._check_stop = check_stop
        self._log = log

    @property
    def status(self) -> MigrationStatus:
        """The destination's status."""
        return self.destination.status

    def run(self) -> None:
        """Return when the guest belongs here. Raises VmferryError when the migration has failed."""
        try:
            while self.status is MigrationStatus.SETUP:
                connection = accept(self._listener, self._check_stop)
                self._serve(StreamChannel(connection, self._guest))
        finally:
            stop_listening(self._listener)

    def _serve(self, channel: StreamChannel) -> None:
        self.destination = self._make_destination()
        try:
            self._receive(channel)
        except VmferryError as error:
            self._say_why(channel, str(error))
            if self.status is not MigrationStatus.SETUP:
                self.destination.fail(str(error))
                raise
            self._log(f"turned a connection away: {error}")
        finally:
            channel.close()

    def _receive(self, channel: StreamChannel) -> None:
        silent = Deadline(self._clock, _HELLO_TIMEOUT_NS, "no greeting in 2 s")

        def check() -> None:
            self._check_stop()
            if self.status is MigrationStatus.SETUP:
                silent()

        with closing(self._guest.populator()) as populator:
            while not self.destination.in_charge:
                message = channel.receive(check)
                answer = self.destination.handle(message)
                if isinstance(message, Pages) and len(message.data):
                    populator.filled_up_to(message.data.last_page)
                    channel.receive_pages(message, check)
                if isinstance(message, Hello):
                    silent = Deadline(self._clock, _START_TIMEOUT_NS, "no pages for 60 s after the greeting")
                if answer:
                    self._answer(channel, answer)

    def _answer(self, channel: StreamChannel, answer: Message) -> None:
        try:
            channel.send(answer, self._check_stop)
        except ChannelError:
            # After Commit the guest is ours even if the source never learns it.
            if not self.destination.in_charge:
                raise

    def _say_why(self, channel: StreamChannel, reason: str) -> None:
        """Give the source the reason, and time to read it: closing with unread data would destroy it."""
        linger = Deadline(self._clock, _LINGER_NS, "time is up")
        try:
            channel.send(Failed(reason), linger)
            channel.discard(linger)
        except VmferryError:
            pass
