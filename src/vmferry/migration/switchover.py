"""The hand-over: stop the guest, send the rest, and pass ownership.

For a moment the guest runs nowhere: the *downtime*. The source collects the dirty log a last time, sends the pages that
are left without a rate limit and then the state of vCPUs and devices, and the destination loads it all.

Two running copies would destroy the guest's disks, and no copy at all is a lost guest. So each side knows at every
message whether the guest is its own:

    source                                destination
    ... State, [Digest], Finish  ->       loads the guest
                                 <-       Ready: all is here, and the guest is still the source's
    Commit: it is yours          ->       lets the guest run
                                 <-       TakenOver

If the connection breaks before Commit, the guest runs on at the source. Once TakenOver is here, it is the
destination's. In between, the source cannot know whether Commit has arrived, and no further message could rule that
out, as it might be lost in turn. The source then keeps the guest stopped (`IN_DOUBT`), and a person decides.

However little or slowly the destination takes, the guest is not stopped for longer than the limit that `run` is given:
if Commit is not sent by then, it runs on here.
"""

from collections.abc import Callable
from enum import StrEnum

from vmferry.errors import MigrationError, PeerError
from vmferry.memory.ranges import EMPTY
from vmferry.migration.peer import Deadline, Patience, expect
from vmferry.migration.ports import Channel, Clock, Guest
from vmferry.migration.precopy import Precopy
from vmferry.migration.stats import Downtime
from vmferry.migration.verification import digest_in_time
from vmferry.units import NS_PER_MS, NS_PER_S, format_duration
from vmferry.wire.messages import Commit, Digest, Finish, Message, Pages, Ready, State, TakenOver

_TAKE_OVER_TIMEOUT_NS = 30 * NS_PER_S
_PATIENCE_NS = 30 * NS_PER_S
"""The source gives up a destination that does nothing for this long while the guest stands still."""
_DIGEST_PATIENCE = 4
"""With `verify`, the destination may take so many times as long for its digest as the source has taken."""
_LOOK_NS = 2 * NS_PER_MS
"""How often to look while the guest stands still: every moment until then is downtime."""
_SIGN_OF_LIFE_NS = 1_000_000_000


class Owner(StrEnum):
    """Who may run the guest."""

    SOURCE = "source"
    IN_DOUBT = "in doubt"
    DESTINATION = "destination"


class Switchover:
    """One hand-over, made when the rest is small enough.

    `check_cancel` is called while waiting before Commit and raises to call the hand-over off.
    """

    verified = False
    """True once the destination has found the same digest of all memory."""
    released = False
    """True once what was to be done to the guest after a failure is done."""

    def __init__(self, guest: Guest, channel: Channel, clock: Clock, check_cancel: Callable[[], None]) -> None:
        self.owner = Owner.SOURCE
        self.downtime = Downtime(clock)
        self._guest = guest
        self._channel = channel
        self._clock = clock
        self._check = self._check_cancel = check_cancel
        self._digests_ns = 0
        self._ran = False
        self._keeps_paused = False

    @property
    def _runs_after(self) -> bool:
        """Whether the guest is to run afterwards, as it did before it was stopped."""
        return self._ran and not self._keeps_paused

    def keep_paused(self) -> None:
        """Do not let the guest run afterwards, wherever it is then. From any thread; too late once Commit is sent."""
        self._keeps_paused = True
        if self.released:
            self._guest.pause()

    def stop(self) -> None:
        """Stop the guest; the downtime begins."""
        self._ran = self._guest.running
        with self.downtime.part("stop"):
            self._guest.pause()

    def wait_until(self, condition: Callable[[], bool], timeout_ns: int) -> None:
        """Wait with the stopped guest until `condition` holds, and notice within about a second if the peer has gone.

        The wait may take as long as the condition does; a link that takes nothing ends it after `timeout_ns`.
        """
        with self.downtime.part("pause"):
            told_ns = self._clock.now_ns()
            while True:
                self._check()
                if condition():
                    return
                if self._clock.now_ns() - told_ns >= _SIGN_OF_LIFE_NS:
                    stuck = f"the link took nothing for {timeout_ns / NS_PER_S:.1f} s (switchover-timeout)"
                    self._channel.send(Pages(EMPTY, EMPTY), Deadline(self._clock, timeout_ns, stuck, self._check))
                    told_ns = self._clock.now_ns()
                self._clock.sleep_ns(_LOOK_NS)

    def run(self, precopy: Precopy, *, verify_within_ns: int | None, timeout_ns: int) -> None:
        """Hand the stopped guest over. Raises MigrationError; `owner` then tells who may run it.

        Commit is sent within `timeout_ns` or never. Memory is verified if that ends before the guest has been stopped
        for `verify_within_ns`, for which the wait for `migrate-continue` does not count. 0 never verifies. None always
        does, and then the time for our digest, and some times as much for theirs, is added to `timeout_ns`.
        """
        stopped_ns = self._clock.now_ns() - self.downtime.parts_ns["stop"]
        until_ns = None if verify_within_ns is None else stopped_ns + verify_within_ns
        self._began_ns, self._timeout_ns = self._clock.now_ns(), timeout_ns
        self._limit()
        with self.downtime.part("last-sync"):
            precopy.sync.last()
        with self.downtime.part("ram"):
            precopy.send_rest(self._patience())
        with self.downtime.part("state"):
            self._send_state(until_ns)
        with self.downtime.part("hand-over"):
            self._commit()

    def resume_if_ours(self) -> None:
        """After a failure: let the guest run on here, if it is to run and is still ours alone."""
        if self.owner is Owner.SOURCE and self._runs_after:
            self._guest.resume()
        self.released = True
        if self._keeps_paused:  # as may have been said a moment ago
            self._guest.pause()

    def _send_state(self, verify_until_ns: int | None) -> None:
        self._send(State(self._guest.save_state()))
        digest = self._digest_at_any_cost() if verify_until_ns is None else self._digest(verify_until_ns)
        if digest:
            self._send(digest)
        self._send(Finish())
        ready = expect(Ready, self._channel.receive(self._patience()))
        self.verified = digest is not None and ready.verified
        if verify_until_ns is None and not self.verified:
            raise PeerError("the destination did not compare the digests of all memory")

    def _digest_at_any_cost(self) -> Digest:
        """Return our digest. What it takes, and what the destination may take for its own, counts for no time limit."""
        start_ns = self._clock.now_ns()
        value = self._guest.memory_digest(None, self._check_cancel)
        took_ns = self._clock.now_ns() - start_ns
        self._digests_ns = (1 + _DIGEST_PATIENCE) * took_ns
        self._limit()
        return Digest(value)

    def _digest(self, until_ns: int) -> Digest | None:
        """Return our digest, or None if it takes more than half of the time left, as the destination needs as much."""
        left_ns = until_ns - self._clock.now_ns()
        value = digest_in_time(self._guest, self._clock, left_ns // 2, self._check)
        return None if value is None else Digest(value, max(1, until_ns - self._clock.now_ns()))

    def _send(self, message: Message) -> None:
        self._channel.send(message, self._patience())

    def _limit(self) -> None:
        """Bound everything from the beginning of the hand-over up to Commit."""
        timeout_ns = self._timeout_ns + self._digests_ns
        text = f"the guest was stopped for {timeout_ns / NS_PER_S:.1f} s and not handed over (switchover-timeout)"
        left_ns = self._began_ns + timeout_ns - self._clock.now_ns()
        self._check = Deadline(self._clock, left_ns, text, self._check_cancel)

    def _patience(self) -> "Patience":
        return Patience(self._channel, self._clock, _PATIENCE_NS + self._digests_ns, self._check)

    def _commit(self) -> None:
        self._check()
        self.owner = Owner.IN_DOUBT
        give_up = Deadline(
            self._clock,
            _TAKE_OVER_TIMEOUT_NS,
            f"the destination did not confirm in {format_duration(_TAKE_OVER_TIMEOUT_NS)}",
        )
        try:
            self._channel.send(Commit(self._runs_after), give_up)
            expect(TakenOver, self._channel.receive(give_up))
        except MigrationError as error:
            raise MigrationError(
                f"hand-over in doubt ({error}): the guest may run at the destination and stays paused here; look there "
                "with query-status, and only if it is neither running nor paused there, take it back: cont force=true"
            ) from error
        self.owner = Owner.DESTINATION
