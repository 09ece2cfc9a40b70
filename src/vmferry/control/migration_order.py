"""What somebody wants of a migration, and whether our decisions or the VM's own carry it out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmferry.control.destination import Destination
from vmferry.control.driven_vm import DrivenVm
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.convergence.variants import Variant
from vmferry.migration.journal import TeeJournal
from vmferry.migration.ports import Journal


@dataclass(frozen=True, kw_only=True)
class Order:
    """What somebody wants."""

    uri: str | None
    """Where to; None is to take over the migration that is running."""
    wait: bool = False
    """To take over: wait until one runs."""
    variant: Variant | None = None
    auto_converge: bool = True
    parameters: Mapping[str, object] = field(default_factory=dict)
    """The parameters by QMP name; those that are not given keep their values."""
    throttle_by: str | None = None
    """One of `actuators.MEANS`; None is the first that is possible."""
    window_ms: int | None = None
    """How long a measurement of the dirty rate lasts; None is WINDOW_MS."""
    limits: Limits = NO_LIMITS
    hand_over_timeout_ns: int | None = None
    """How long the other side may hold the stopped guest of a QEMU; None is what the downtime limit suggests."""
    destination: Destination | None = None
    """The other side, if it can be asked."""
    journal: Journal = field(default_factory=lambda: TeeJournal([]))


def is_decided_outside(driven: DrivenVm, order: Order) -> bool:
    """True if a variant is wanted that the VM does not have by itself."""
    wants_more = order.variant is not None and not order.variant.is_qemus
    return wants_more and order.auto_converge and not driven.converges_responsively
