"""A migration as its destination sees it: messages in, answers out.

It knows no socket: whoever drives it reads messages from a channel, has the bytes of pages put into guest
memory once `handle` has found them due, and sends back what `handle` returns. The guest runs here only after Commit.
"""

from collections.abc import Callable

from vmferry.errors import PeerError, VmferryError
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.layout import GuestLayout
from vmferry.memory.ranges import PageRuns
from vmferry.migration.events import StatusChanged
from vmferry.migration.handshake import Credentials
from vmferry.migration.ports import Clock, Guest, Journal
from vmferry.migration.status import DESTINATION_TRANSITIONS, MigrationStatus
from vmferry.migration.verification import digest_in_time
from vmferry.units import format_size
from vmferry.wire.format import NO_FEATURES, Feature
from vmferry.wire.messages import (
    Accepted,
    Barrier,
    Challenge,
    Commit,
    Digest,
    Failed,
    Finish,
    Hello,
    Join,
    Message,
    Pages,
    Proof,
    Ready,
    State,
    TakenOver,
)


class MigrationDestination:
    """One incoming migration into `guest`, whose memory is fresh: all zero.

    It is active from the first pages that a proven source sends: until then nothing here has changed, and another
    source may come. Why it refuses is told to who has proven to know the token, or to all if it `tells_reasons`. When
    the guest belongs here, it runs if it ran at the source and `may_run` says so.
    """

    def __init__(
        self,
        guest: Guest,
        clock: Clock,
        journal: Journal,
        credentials: Credentials,
        may_run: Callable[[], bool] = lambda: True,
        *,
        tells_reasons: bool = False,
    ) -> None:
        self.status = MigrationStatus.SETUP
        self.accepted = False
        """Whether the source has proven itself and its guest fits."""
        self._guest = guest
        self._clock = clock
        self._journal = journal
        self._credentials = credentials
        self._may_run = may_run
        self._tells_reasons = tells_reasons
        self._filled = Bitmap(0)
        """Pages that may hold something else than zero bytes."""
        self.channel_count = 0
        """How many connections for pages the source opens; 0 if pages come over its first one."""
        self._features = NO_FEATURES
        """What the source makes use of."""
        self._joined: set[int] = set()
        self._hello: Hello | None = None
        self._trusted = False
        """Whether the source may be told why it is refused."""
        self._state: bytes | None = None
        self._digest: Digest | None = None
        self._ready = False
        self._handlers: dict[type[Message], Callable[..., Message | None]] = {
            Hello: self._take_hello,
            Proof: self._take_proof,
            Pages: self._take_pages,
            Barrier: self._take_barrier,
            State: self._take_state,
            Digest: self._take_digest,
            Finish: self._finish,
            Commit: self._commit,
        }

    @property
    def in_charge(self) -> bool:
        """True once the guest belongs here."""
        return self.status is MigrationStatus.COMPLETED

    @property
    def memory_bytes(self) -> int:
        """Size of the guest's memory."""
        return self._guest.layout.size_bytes

    @property
    def stage(self) -> str:
        """Tell in words how far a source has come whose migration has not begun."""
        if self.accepted:
            return "before its first pages"
        if not self._hello:
            return "before its greeting"
        knows_token = self._trusted or not self._credentials.token
        return "before it was accepted" if knows_token else "before it proved to know the token"

    @property
    def awaits_digest(self) -> bool:
        """True while the source may be working out a digest of all memory."""
        return self._state is not None and self._digest is None and not self._ready

    def handle(self, message: Message) -> Message | None:
        """Take one message and return the answer, if it calls for one.

        Raises PeerError for a message that is not due or not acceptable, and what the guest raises.
        """
        handler = self._handlers.get(type(message))
        expected = self._expected()
        if handler is None or not isinstance(message, expected):
            names = " or ".join(kind.__name__ for kind in expected)
            raise PeerError(f"the source sent {type(message).__name__} where {names} was due")
        return handler(message)

    def respond(self, message: Message) -> Message | None:
        """Take one message as `handle` does; what is wrong with it ends the migration here, and the answer says so."""
        try:
            return self.handle(message)
        except VmferryError as error:
            self.fail(str(error))
            return self.refusal(str(error))

    def refusal(self, reason: str) -> Failed:
        """Return what the source is told of its failure: a stranger learns nothing from it."""
        tells = self._trusted or self._tells_reasons
        return Failed(reason if tells else "this destination does not take this guest; its own log says why")

    def fail(self, reason: str) -> None:
        """Give up a migration that has begun, and make memory fresh again; harmless before that and after its end."""
        if self.status is not MigrationStatus.ACTIVE:
            return
        self._set_status(MigrationStatus.FAILED, reason)
        self._guest.clear_pages(PageRuns.of([(0, self._guest.layout.page_count)]))

    def _expected(self) -> tuple[type[Message], ...]:
        if not self.accepted:
            return (Proof,) if self._hello else (Hello,)
        if self.status not in (MigrationStatus.SETUP, MigrationStatus.ACTIVE):
            return ()
        if self.channel_count and self.status is MigrationStatus.SETUP:
            return (Barrier,)
        if self._ready:
            return (Commit,)
        if self._state is None:
            return (Pages, State, Barrier) if self.status is MigrationStatus.ACTIVE else (Pages, State)
        return (Digest, Finish) if self._digest is None else (Finish,)

    def _take_hello(self, hello: Hello) -> Challenge:
        self._hello = hello
        return self._credentials.challenge(hello)

    def _take_proof(self, proof: Proof) -> Accepted:
        assert self._hello
        self._credentials.check(self._hello, proof)
        self._trusted = bool(self._credentials.token)
        _compare(self._hello.layout, self._guest.layout)
        self.channel_count, self._features = proof.channel_count, proof.features
        self.accepted = True
        return Accepted()

    def awaits(self, join: Join) -> bool:
        """Whether the source that was accepted here is the one that a connection says it belongs to."""
        return self.accepted and self._hello is not None and self._hello.nonce == join.source_nonce

    def join(self, join: Join) -> Accepted:
        """Let a further connection in that the source accepted here has opened. Raises PeerError if it has not."""
        self._credentials.check_join(join)
        if self.status is not MigrationStatus.SETUP or join.number > self.channel_count or join.number in self._joined:
            raise PeerError(f"it joins as channel {join.number}, which is not due")
        self._joined.add(join.number)
        return Accepted()

    def _take_barrier(self, barrier: Barrier) -> Barrier | None:
        if self.status is MigrationStatus.SETUP:
            self._take_first_barrier(barrier)
        return Barrier(barrier.number) if barrier.wants_answer else None

    def _take_first_barrier(self, barrier: Barrier) -> None:
        if barrier.number or len(self._joined) < self.channel_count:
            raise PeerError(
                f"the source began with barrier {barrier.number} "
                f"when {len(self._joined)} of {self.channel_count} page channels had joined"
            )
        self._begin()

    def _take_pages(self, pages: Pages) -> None:
        needed, what = (Feature.XBZRLE, "deltas of pages") if pages.is_delta else (Feature.ZSTD, "packed pages")
        if pages.packed_bytes and not self._features & needed:
            raise PeerError(f"the source sent {what}, which were not agreed on")
        if self.status is MigrationStatus.SETUP:
            if not len(pages.data) and not len(pages.zero):
                return  # that is not a beginning
            self._begin()
        self._filled.set_runs(pages.data)
        if pages.zero:
            self._clear_filled(pages.zero)

    def _clear_filled(self, pages: PageRuns) -> None:
        filled = self._filled.test_runs(pages)
        if filled.any():
            self._guest.clear_pages(pages.split(filled)[1])

    def _begin(self) -> None:
        self._filled = Bitmap(self._guest.layout.page_count)
        self._trusted = True
        self._set_status(MigrationStatus.ACTIVE)

    def _take_state(self, state: State) -> None:
        if self.status is MigrationStatus.SETUP:  # a guest without memory
            self._begin()
        self._state = state.blob

    def _take_digest(self, digest: Digest) -> None:
        self._digest = digest

    def _finish(self, _finish: Finish) -> Message:
        assert self._state is not None
        verified = self._digest is not None and self._compare_digests(self._digest)
        self._guest.load_state(self._state)
        self._ready = True
        return Ready(verified)

    def _compare_digests(self, theirs: Digest) -> bool:
        """Return whether the digests are the same, False if there was no time for ours. Raises PeerError."""
        ours = digest_in_time(self._guest, self._clock, theirs.limit_ns or None)
        if ours is not None and ours != theirs.value:
            raise PeerError("the memory that arrived is not the memory that was sent (digests differ)")
        return ours is not None

    def _commit(self, commit: Commit) -> Message:
        # From this moment on the guest is ours, whatever happens to the connection.
        self._set_status(MigrationStatus.COMPLETED)
        if commit.run and self._may_run():
            self._guest.resume()
        return TakenOver()

    def _set_status(self, status: MigrationStatus, reason: str = "") -> None:
        assert status in DESTINATION_TRANSITIONS[self.status], f"{self.status} -> {status}"
        old, self.status = self.status, status
        self._journal.record(self._clock.now_ns(), StatusChanged(old=old, new=status, reason=reason))


def _exactly(size_bytes: int) -> str:
    return f"{format_size(size_bytes)} ({size_bytes} bytes)"


def _compare(theirs: GuestLayout, ours: GuestLayout) -> None:
    """Raise PeerError that names the first difference between the two guests."""
    for what, their_value, our_value in (
        ("page size", theirs.page_size, ours.page_size),
        ("memory size", _exactly(theirs.size_bytes), _exactly(ours.size_bytes)),
        ("number of vCPUs", theirs.vcpu_count, ours.vcpu_count),
        ("RAM blocks", theirs.ram_blocks, ours.ram_blocks),
    ):
        if their_value != our_value:
            raise PeerError(f"{what} differs: the source has {their_value}, the destination has {our_value}")
