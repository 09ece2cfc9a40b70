"""Greets everybody who connects, many at a time, until one of them begins to send a guest.

Strangers may come in any number, say anything or nothing: each has a bounded time and bounded memory, none is waited
for, and where there are too many, those who have shown least go first. A source that comes in between is served.
"""

import select
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from vmferry.errors import ChannelError, PeerError, VmferryError
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.peer import Deadline
from vmferry.migration.ports import Clock
from vmferry.migration.status import MigrationStatus
from vmferry.transport.sockets import accept, stop_listening
from vmferry.transport.stream import StreamChannel
from vmferry.units import NS_PER_MS, NS_PER_S
from vmferry.wire.format import GREETING_FRAMES, SOURCE_FRAMES
from vmferry.wire.messages import Accepted, Join, Message

MAX_CALLERS = 128
MAX_PAGE_CHANNELS = 512
"""How many connections may have joined migrations that have not begun."""
_WAIT_MS = 50
_GREETING_NS = 10 * NS_PER_S
"""How long a greeting may take: sources greet at once and answer at once."""
_START_NS = 60 * NS_PER_S
"""How long the first pages may take. A source first switches the dirty log on, which takes long for much memory."""
_LINGER_NS = NS_PER_S
"""How long a source has to read why it is refused: closing with unread data could destroy that."""
_AT_ONCE_NS = 100 * NS_PER_MS


@dataclass(eq=False)
class Caller:
    """Somebody at the door. `first` is what its migration began with: pages, whose bytes are yet to be received."""

    channel: StreamChannel
    destination: MigrationDestination
    deadline_ns: int
    greeted: bool = False
    leaving: bool = False
    first: Message | None = None
    page_channels: list[StreamChannel] = field(default_factory=list)
    """Further connections that have joined it."""

    @property
    def rank(self) -> int:
        """How much it has shown of being a source."""
        return -1 if self.leaving else self.greeted + self.destination.accepted

    def close_page_channels(self) -> None:
        """Close the connections that have joined it."""
        for channel in self.page_channels:
            channel.close()
        self.page_channels.clear()


class Reception:
    """The callers at `listener`, which is closed in the end. Used by one thread.

    `open_channel` and `make_destination` make what a new caller is received with. `log` is told in one line each who
    was turned away, and why.
    """

    def __init__(
        self,
        listener: socket.socket,
        clock: Clock,
        open_channel: Callable[[socket.socket], StreamChannel],
        make_destination: Callable[[], MigrationDestination],
        log: Callable[[str], None],
    ) -> None:
        self._listener = listener
        self._clock = clock
        self._open_channel = open_channel
        self._make_destination = make_destination
        self._log = log
        self._callers: list[Caller] = []

    def next_source(self, check_stop: Callable[[], None]) -> Caller:
        """Return the first caller whose migration has begun; the others are sent away. `check_stop` may raise."""
        while True:
            check_stop()
            ready = self._wait()
            for caller in self._callers.copy():
                if caller.channel.fileno() in ready and self._attend(caller):
                    return self._chosen(caller)
            self._close_late()
            self._make_room(MAX_CALLERS)
            if self._listener.fileno() in ready:
                self._let_in()

    def see_off(self, caller: Caller) -> None:
        """Give a caller that was told to go a moment to read that."""
        caller.leaving = True
        caller.deadline_ns = self._clock.now_ns() + _LINGER_NS
        if caller not in self._callers:
            self._callers.append(caller)

    def close(self) -> None:
        """Close all connections and stop listening."""
        self._close_all()
        stop_listening(self._listener)

    def _wait(self) -> set[int]:
        """Wait a little, and return the descriptors that have something to read."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        for caller in self._callers:
            poll.register(caller.channel, select.POLLIN)
        ready = {caller.channel.fileno() for caller in self._callers if caller.channel.holds_more}
        return ready | {fd for fd, _ in poll.poll(0 if ready else _WAIT_MS)}

    def _let_in(self) -> None:
        try:
            for _ in range(MAX_CALLERS):
                connection = accept(self._listener)
                if connection is None:
                    return
                self._greet(connection)
        except ChannelError as error:  # too many open files, for instance: somebody has to go
            self._log(str(error))
            if not self._callers:
                self._clock.sleep_ns(_AT_ONCE_NS)
            self._make_room(len(self._callers) // 2)

    def _greet(self, connection: socket.socket) -> None:
        try:
            channel = self._open_channel(connection)
        except ChannelError as error:
            self._log(f"turned a connection away before its greeting: {error}")
            return
        channel.allow(GREETING_FRAMES)
        deadline_ns = self._clock.now_ns() + _GREETING_NS
        self._callers.append(Caller(channel, self._make_destination(), deadline_ns))

    def _attend(self, caller: Caller) -> bool:
        """Take what a caller has sent, a message at most; the next one has to wait until everybody had a turn.

        Return whether its migration has begun.
        """
        try:
            if caller.leaving:
                caller.channel.discard()
            elif message := caller.channel.take():
                return self._answer(caller, message)
        except VmferryError as error:
            if caller.leaving:
                self._close(caller)
            else:
                self._refuse(caller, str(error))
        return False

    def _refuse(self, caller: Caller, reason: str) -> None:
        self._tell(caller, reason)
        with suppress(VmferryError):
            caller.channel.send(caller.destination.refusal(reason), self._at_once())
        self.see_off(caller)

    def _answer(self, caller: Caller, message: Message) -> bool:
        if isinstance(message, Join):
            self._join(caller, message)
            return False
        answer = caller.destination.handle(message)
        caller.greeted = True
        if answer:
            caller.channel.send(answer, self._at_once())
        if isinstance(answer, Accepted):
            caller.deadline_ns = self._clock.now_ns() + _START_NS
        caller.first = message
        return caller.destination.status is MigrationStatus.ACTIVE

    def _join(self, joining: Caller, join: Join) -> None:
        """Put a connection to the migration that it belongs to, which has not begun."""
        source = next((caller for caller in self._callers if caller.destination.awaits(join)), None)
        if joining.greeted or not source:
            raise PeerError("it wants to join a migration that nobody has announced here")
        self._make_room_beside(source)
        joining.channel.send(source.destination.join(join), self._at_once())
        source.page_channels.append(joining.channel)
        self._callers.remove(joining)

    def _chosen(self, caller: Caller) -> Caller:
        self._callers.remove(caller)
        self._close_all()
        caller.channel.allow(SOURCE_FRAMES)
        return caller

    def _close_late(self) -> None:
        now_ns = self._clock.now_ns()
        for caller in self._callers.copy():
            if now_ns > caller.deadline_ns:
                self._dismiss(caller, "it took too long")

    def _make_room(self, places: int) -> None:
        """Keep at most `places` callers. Those who have shown least of being a source go, the earliest first."""
        excess = len(self._callers) - places
        for caller in sorted(self._callers, key=lambda caller: caller.rank)[: max(0, excess)]:
            self._dismiss(caller, "too many others came")

    def _make_room_beside(self, source: Caller) -> None:
        """Let others go that hold page channels, the earliest first, until there is room for one more."""
        others = [caller for caller in self._callers if caller.page_channels and caller is not source]
        while others and sum(len(caller.page_channels) for caller in (source, *others)) >= MAX_PAGE_CHANNELS:
            self._dismiss(others.pop(0), "too many page channels came")

    def _dismiss(self, caller: Caller, why: str) -> None:
        if not caller.leaving:
            self._tell(caller, why)
        self._close(caller)

    def _tell(self, caller: Caller, why: str) -> None:
        self._log(f"turned a connection away {caller.destination.stage}: {why}")

    def _close_all(self) -> None:
        for caller in self._callers.copy():
            self._close(caller)

    def _close(self, caller: Caller) -> None:
        self._callers.remove(caller)
        caller.close_page_channels()
        caller.channel.close()

    def _at_once(self) -> Deadline:
        """Return what ends a call that should not have to wait: there is something to read, or room for an answer."""
        return Deadline(self._clock, _AT_ONCE_NS, "it does not take its answer")
