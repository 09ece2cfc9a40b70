"""The messages of a migration stream, as values; `docs/wire-format.md` shows them as bytes.

The source sends Hello, Proof, Pages..., State, [Digest], Finish, then Commit.
The destination answers Hello with Challenge, Proof with Accepted, Finish with Ready, and Commit with TakenOver.
With more connections, each of them is opened with Join, which is answered with Accepted, and carries Pages and Barriers
up to its own Finish; the first connection then carries Barriers and no pages.
It may send Failed at any time before Commit.
"""

from dataclasses import dataclass, field

from vmferry.memory.layout import GuestLayout
from vmferry.memory.ranges import PageRuns
from vmferry.wire.format import NO_FEATURES, NONCE_BYTES, Feature


@dataclass(frozen=True)
class Hello:
    """Source: opens the stream and describes the guest to come."""

    layout: GuestLayout
    nonce: bytes = bytes(NONCE_BYTES)
    """Random bytes, fresh for each connection."""
    features: Feature = NO_FEATURES
    """What the source would make use of."""


@dataclass(frozen=True)
class Challenge:
    """Destination: its own nonce, and the proof that it knows the token; no proof if it was given none.

    `features` are those of Hello that it knows.
    """

    nonce: bytes
    proof: bytes = b""
    features: Feature = NO_FEATURES


@dataclass(frozen=True)
class Proof:
    """Source: knows both nonces, and the token if there is one. From here on it makes use of `features`."""

    value: bytes
    features: Feature = NO_FEATURES
    channel_count: int = 0
    """How many connections for pages will join; 0 if pages come over this one."""


@dataclass(frozen=True)
class Join:
    """Source: opens a further connection of the migration whose Hello had `source_nonce`."""

    source_nonce: bytes
    number: int
    """Which of its page channels this is, from 1."""
    proof: bytes


@dataclass(frozen=True)
class Accepted:
    """Destination: you are the source that I wait for, and the layout is mine too; send."""


@dataclass(frozen=True)
class Pages:
    """Source: the newest content of some pages.

    `zero` are pages that hold only zero bytes, `data` are pages whose bytes follow on the wire
    in the order of the runs. `final` is set once the guest is stopped; the bytes cannot change any
    more, so they carry a checksum.
    """

    data: PageRuns
    zero: PageRuns
    final: bool = False
    packed_bytes: int = 0
    """Size of the bytes that follow if they are packed, which makes them fewer; 0 if they are not."""
    is_delta: bool = False
    """Whether they are packed as what has changed of the pages since they were last sent; else by zstd."""
    content: bytes | memoryview | None = field(default=None, compare=False, repr=False)
    """The bytes that follow, if they were read before; else they are in guest memory, or still on the wire."""


@dataclass(frozen=True)
class Barrier:
    """Source, on all connections alike: what came before it on any of them is in place before anything behind it.

    Number 0, on the first connection alone, begins the migration once all others have joined. If it `wants_answer`, the
    destination sends a barrier of the same number back when it has met it.
    """

    number: int
    wants_answer: bool = False


@dataclass(frozen=True)
class State:
    """Source: vCPU and device state, an opaque blob that the guest's kind defines."""

    blob: bytes


@dataclass(frozen=True)
class Digest:
    """Source: a digest of all guest memory, to be compared before Ready (`verify`)."""

    value: bytes
    limit_ns: int = 0
    """How long the destination may work on its own one; if that takes longer, nothing is compared. 0: no limit."""


@dataclass(frozen=True)
class Finish:
    """Source: that was everything; say Ready once it is loaded."""


@dataclass(frozen=True)
class Ready:
    """Destination: all loaded; the guest can run here on your word."""

    verified: bool = False
    """Whether both digests of all memory were worked out, and are the same."""


@dataclass(frozen=True)
class Commit:
    """Source: the guest is yours from here on; let it run if `run`, else keep it paused."""

    run: bool


@dataclass(frozen=True)
class TakenOver:
    """Destination: the guest is here now, running or paused as Commit said."""


@dataclass(frozen=True)
class Failed:
    """Destination, before Commit: it cannot be done, for this reason (one line)."""

    reason: str


Message = (
    Hello
    | Challenge
    | Proof
    | Join
    | Accepted
    | Pages
    | Barrier
    | State
    | Digest
    | Finish
    | Ready
    | Commit
    | TakenOver
    | Failed
)
