"""The hand-over: stop the guest, send the rest, and pass ownership.

The source owns the guest until it has sent Commit after the destination said Ready; from then on the
destination does. If the connection breaks while Commit may or may not have arrived, the source
keeps the guest stopped: two running copies would destroy its disks, so a person decides.
"""

import itertools
from collections.abc import Callable
from enum import StrEnum

from vmferry.errors import ChannelError, MigrationError, PeerError
from vmferry.memory.ranges import EMPTY
from vmferry.migration.ports import Channel, Clock, Guest
from vmferry.migration.precopy import Precopy
from vmferry.migration.stats import Downtime
from vmferry.wire.messages import Commit, Digest, Failed, Finish, Message, Pages, Ready, State, TakenOver

_TAKE_OVER_TIMEOUT_NS = 30_000_000_000
_LOOK_NS = 2_000_000
"""While the guest stands still, every moment until somebody looks is downtime."""
_LOOKS_PER_SIGN_OF_LIFE = 500


class Owner(StrEnum):
    """Who may run the guest."""

    SOURCE = "source"
    IN_DOUBT = "in doubt"
    DESTINATION = "destination"


class Switchover:
    """One hand-over, made when the rest is small enough.

    `check_cancel` is called while waiting before Commit and raises to call the hand-over off.
    """

    def __init__(self, guest: Guest, channel: Channel, clock: Clock, check_cancel: Callable[[], None]) -> None:
        self.owner = Owner.SOURCE
        self.downtime = Downtime(clock)
        self._guest = guest
        self._channel = channel
        self._clock = clock
        self._check_cancel = check_cancel
        self._was_running = guest.running

    def stop(self) -> None:
        """Stop the guest; the downtime begins."""
        with self.downtime.part("stop"):
            self._guest.pause()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait with the stopped guest, and find out within about a second if the destination has gone."""
        with self.downtime.part("pause"):
            for look in itertools.count(1):
                self._check_cancel()
                if condition():
                    return
                if look % _LOOKS_PER_SIGN_OF_LIFE == 0:
                    self._send(Pages(EMPTY, EMPTY))
                self._clock.sleep_ns(_LOOK_NS)

    def run(self, precopy: Precopy, *, verify: bool) -> None:
        """Hand the stopped guest over. Raises MigrationError; `owner` then tells who may run it."""
        with self.downtime.part("last-sync"):
            precopy.sync.last()
        with self.downtime.part("ram"):
            precopy.send_rest()
        with self.downtime.part("state"):
            self._send_state(verify)
        with self.downtime.part("hand-over"):
            self._commit()

    def resume_if_ours(self) -> None:
        """After a failure: let the guest run on here, if it ran before and is still ours alone."""
        if self.owner is Owner.SOURCE and self._was_running:
            self._guest.resume()

    def _send_state(self, verify: bool) -> None:
        self._send(State(self._guest.save_state()))
        if verify:
            self._send(Digest(self._guest.memory_digest()))
        self._send(Finish())
        expect(Ready, self._channel.receive(self._check_cancel))

    def _send(self, message: Message) -> None:
        self._channel.send(message, self._check_cancel)

    def _commit(self) -> None:
        self._check_cancel()
        self.owner = Owner.IN_DOUBT
        give_up = Deadline(self._clock, _TAKE_OVER_TIMEOUT_NS, "the destination did not confirm in 30 s")
        try:
            self._channel.send(Commit(self._was_running), give_up)
            expect(TakenOver, self._channel.receive(give_up))
        except MigrationError as error:
            raise MigrationError(
                f"hand-over in doubt ({error}): the guest stays paused here; look at the destination, "
                "and resume here only if it does not run there"
            ) from error
        self.owner = Owner.DESTINATION


class Deadline:
    """Raises ChannelError with `text` when called after `timeout_ns` have passed."""

    def __init__(self, clock: Clock, timeout_ns: int, text: str) -> None:
        self._clock = clock
        self._end_ns = clock.now_ns() + timeout_ns
        self._text = text

    def __call__(self) -> None:
        """Check the time."""
        if self._clock.now_ns() > self._end_ns:
            raise ChannelError(self._text)


def expect(kind: type[Message], message: Message) -> None:
    """Raise PeerError unless `message` is of this kind; with the peer's own reason if it failed."""
    if isinstance(message, Failed):
        raise PeerError(f"the destination refused: {message.reason}")
    if not isinstance(message, kind):
        raise PeerError(f"the destination sent {type(message).__name__} where {kind.__name__} was due")
