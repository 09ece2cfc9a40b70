"""How a migration ended, and whether the guest has arrived."""

from dataclasses import dataclass
from enum import StrEnum

from vmferry.control.asking.bottleneck import Bottleneck
from vmferry.control.asking.progress import Progress
from vmferry.convergence.limit_watch import Verdict
from vmferry.errors import MigrationError


class ArrivalState(StrEnum):
    """What is known of a guest's arrival."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Arrival:
    """Whether the guest has arrived, and who says so."""

    state: ArrivalState
    by: str
    """`protocol`, `return-path`, `libvirt`, `destination`, or `nobody`."""
    text: str


@dataclass(frozen=True)
class Result:
    """A migration that has ended, with the figures that were seen last, and the highest throttle on the way."""

    last: Progress
    max_throttle_percent: int | None
    """None if no figures were ever seen."""
    verdicts: tuple[Verdict, ...] = ()
    dirty_sync_share: float | None = None
    """The share of the time that dirty syncs have taken, while pages were sent; None if that is not known."""
    bottleneck: Bottleneck | None = None
    """What has bounded the speed; None if that is not known."""
    throttle_by: str | None = None
    """The means by which the guest was to be slowed from outside; None if that was not for us."""
    throttle_reasons: tuple[str, ...] = ()
    """Why not by a means that comes before it."""
    interrupted_by: int | None = None
    """The number of the signal that cancelled it; None if none did."""
    used_postcopy: bool = False
    """True if it was seen in post-copy, in which the guest waits for pages, how long nobody knows."""
    policy_broken: bool = False
    """True if it was called off because its policy is broken."""
    gave_up: bool = False
    """True if it was cancelled by what decides, or what bounds it: a limit, the policy, a link that carries nothing."""
    vm_left: bool = False
    """True if the VM's manager says that it has migrated, and has ended it here."""
    arrival: Arrival | None = None
    """Whether the guest has arrived; None if the migration did not complete, or nobody asked."""
    not_put_back: tuple[str, ...] = ()
    """QMP commands that put back what the VM refused to have put back."""

    @property
    def completed(self) -> bool:
        """True if the guest was handed over."""
        return self.last.status == "completed"


def require_completed(result: Result) -> Result:
    """Return the result of a completed migration. Raises MigrationError with the reason otherwise."""
    if not result.completed:
        reason = f": {result.last.error}" if result.last.error else ""
        raise MigrationError(f"the migration ended as '{result.last.status}'{reason}")
    return result
