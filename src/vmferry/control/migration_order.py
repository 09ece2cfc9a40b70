"""What somebody wants of a migration, and whether our decisions or the VM's own carry it out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from vmferry.control.arriving.destination import Destination
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.wishes import Wishes
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.convergence.policies.planned_settings import Pace, goal_settings
from vmferry.convergence.variants import PLANNED, POLICY, POLICY_SETTINGS, Variant
from vmferry.convergence.written import Written
from vmferry.errors import UsageError
from vmferry.migration.journal import TeeJournal
from vmferry.migration.ports import Journal
from vmferry.settings.policy_parameters import settings_text


@dataclass(frozen=True, kw_only=True)
class Order:
    """What somebody wants of one migration."""

    uri: str | None
    """Where to; None is to take over the migration that is running."""
    wait: bool = False
    """To take over: wait until one runs."""
    variant: Variant | None = None
    """None is the VM's own choice, or of a QEMU `planned`, if it can be slowed from outside (`settled`)."""
    is_by_default: bool = False
    """True if nobody has named the variant; then it is no error if it is not possible."""
    pace: Pace | None = None
    """How the policy `planned` weighs time and the guest's work."""
    auto_converge: bool = True
    parameters: Mapping[str, object] = field(default_factory=dict)
    """The parameters by QMP name; those that are not given keep their values."""
    throttle_by: str | None = None
    """One of `actuators.MEANS`; None is the first that is possible."""
    window_ms: int | None = None
    """How long a measurement of the dirty rate lasts; None is WINDOW_MS."""
    limits: Limits = NO_LIMITS
    channels: int | None = None
    """Over how many connections pages go beside the first, 0 for that one alone; None is as the VM has it."""
    compression: str | None = None
    """How pages are compressed on channels, by QEMU's words; None is as the VM has it."""
    hand_over_timeout_ns: int | None = None
    """How long the other side may hold the stopped guest of a QEMU; None is what the downtime limit suggests."""
    destination: Destination | None = None
    """The other side, if it can be asked."""
    learnt: tuple[Written, ...] = ()
    """How the guest was found to write earlier in a migration that is taken over."""
    journal: Journal = field(default_factory=lambda: TeeJournal([]))
    wishes: Wishes = field(default_factory=Wishes)
    """What is asked for while it runs."""


def settled(driven: DrivenVm, order: Order) -> Order:
    """Return the order with the variant that it comes to, which is told the goals if it plans for them.

    Raises UsageError if it has no pace but is given one.
    """
    is_by_default = order.variant is None and order.auto_converge and not driven.converges_responsively
    variant = PLANNED if is_by_default else order.variant
    if not plans(variant) and order.pace:
        raise UsageError(f"--{order.pace} is for a policy that plans; add --variant {PLANNED.name}")
    if variant is None:
        return order
    return replace(order, variant=with_goals(variant, order.limits, order.pace), is_by_default=is_by_default)


def plans(variant: Variant | None) -> bool:
    """True if it has a policy that plans for goals."""
    return variant is not None and variant.settings.get(POLICY) == PLANNED.name


def with_goals(variant: Variant, limits: Limits, pace: Pace | None) -> Variant:
    """Return a variant that is told the goals, if it plans for them."""
    if not plans(variant):
        return variant
    given = variant.settings.get(POLICY_SETTINGS), settings_text(goal_settings(limits, pace))
    return replace(variant, settings={**variant.settings, POLICY_SETTINGS: ",".join(map(str, filter(None, given)))})


def is_decided_outside(driven: DrivenVm, order: Order) -> bool:
    """True if a variant is wanted that the VM does not have by itself."""
    wants_more = order.variant is not None and not order.variant.is_qemus
    return wants_more and order.auto_converge and not driven.converges_responsively
