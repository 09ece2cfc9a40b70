"""A migration that an agent remembers, as it is kept and as scripts are told; the figures are those of `Outcome`."""

from vmferry.agent.recording import Foretold
from vmferry.convergence.limit_watch import Verdict
from vmferry.migration.outcome import Outcome
from vmferry.units import UNKNOWN


class RememberedRun(Outcome, frozen=True, kw_only=True):
    """A migration that an agent remembers; its status is the last that was seen."""

    id: int
    host: str
    vm_name: str
    vm_uuid: str
    address: str
    """Of the source's monitor."""
    mode: str
    """What was done with it: `watch`, `shadow` or `steer`."""
    rule: str
    """Which rule said so."""
    variant: str
    """What decided, or would have; empty if nothing did."""
    began_ms: int
    """When it began, in milliseconds since the Unix epoch."""
    ended_ms: int | None
    """When it ended; null if it goes on, or nobody saw its end."""
    followed: bool
    """True if an agent follows it now."""
    limits: list[Verdict] | None
    arrival: str | None
    """Whether the guest has arrived: `verified` or `unverified`; null if it did not complete."""
    forecast: Foretold | None
    """The first forecast that said within which bounds it would end."""
    left_ms: int | None
    """How long it really took from that forecast on; null if there was none, or it did not complete."""
    remark: str
    """What went wrong with following it."""

    @property
    def state(self) -> str:
        """How it ended, or how far it is; unknown if nobody saw the end."""
        return self.status if self.followed or self.ended_ms is not None else UNKNOWN
