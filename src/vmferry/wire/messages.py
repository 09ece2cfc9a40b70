"""The messages of a migration stream, as values; `docs/wire-format.md` shows them as bytes.

The source sends Hello, Pages..., State, [Digest], Finish, then Commit.
The destination answers Hello with Accepted or Failed, Finish with Ready or Failed, and Commit
with TakenOver. It may send Failed at any time before Commit.
"""

from dataclasses import dataclass

from vmferry.memory.layout import GuestLayout
from vmferry.memory.ranges import PageRuns


@dataclass(frozen=True)
class Hello:
    """Source: opens the stream and describes the guest to come."""

    layout: GuestLayout
    features: int = 0


@dataclass(frozen=True)
class Accepted:
    """Destination: the layout is mine too, send."""


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


@dataclass(frozen=True)
class State:
    """Source: vCPU and device state, an opaque blob that the guest's kind defines."""

    blob: bytes


@dataclass(frozen=True)
class Digest:
    """Source: a digest of all guest memory, to be compared before Ready (`verify`)."""

    value: bytes


@dataclass(frozen=True)
class Finish:
    """Source: that was everything; say Ready once it is loaded."""


@dataclass(frozen=True)
class Ready:
    """Destination: all loaded; the guest can run here on your word."""


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


Message = Hello | Accepted | Pages | State | Digest | Finish | Ready | Commit | TakenOver | Failed
