"""What is answered about migrations that run."""

import msgspec

from vmferry.agent.live import Live
from vmferry.agent.rules import Mode, Rule
from vmferry.convergence.limits import OnLimit
from vmferry.units import NS_PER_MS, NS_PER_S, whole_ms


class KeptLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits that are kept; None is no limit."""

    finish_by_ms: int | None
    max_downtime_ms: int | None
    max_guest_loss_percent: float | None
    max_guest_loss_vcpu_s: float | None
    max_throttle_percent: int | None
    on_limit: OnLimit


class LiveMigration(msgspec.Struct, frozen=True, kw_only=True):
    """A migration that runs; what nobody knows is None."""

    key: str
    """Tells it from all others, for actions."""
    vm_name: str
    vm_uuid: str
    address: str
    """Of the source's monitor."""
    mode: Mode
    rule: str
    """Which rule holds, and who has asked for another."""
    orders: str
    """What is done with it, for people."""
    variant: str
    """What decides, or would; empty if nothing does."""
    limits: KeptLimits | None
    """None where nobody keeps any."""
    began_ms: int
    status: str
    remark: str
    """What went wrong with following it."""
    elapsed_ms: int | None
    remaining_bytes: int | None
    total_bytes: int | None
    sent_bytes: int | None
    bandwidth_bytes_per_s: float | None
    dirty_bytes_per_s: float | None
    throttle_percent: int | None
    iteration_count: int | None
    dirty_sync_count: int | None
    percent: int | None
    """How far it is, as a share of the time that is expected."""
    converges: bool | None
    """False if there is no end in sight."""
    least_left_ms: int | None
    median_left_ms: int | None
    most_left_ms: int | None
    needed_percent: int | None
    """The least throttle by which it would converge, where it does not now."""
    lost_vcpu_s: float | None
    """What throttles have taken of all vCPUs so far; None if that is not all known."""
    deadline_left_ms: int | None
    """Below 0 once the deadline is over."""
    said: list[str]
    """The last lines for people, with decisions and their reasons, the newest at the end."""


def live_migration(live: Live) -> LiveMigration:
    """Return what is shown of a migration that runs."""
    facts, progress, outlook, rule = live.recording.facts, live.progress, live.outlook, live.reins.rule
    limits = _kept(rule) if rule.mode is Mode.STEER else None
    return LiveMigration(
        key=live.key,
        vm_name=facts.vm.name,
        vm_uuid=facts.vm.uuid,
        address=facts.address,
        mode=facts.mode,
        rule=facts.rule,
        orders=", ".join(rule.orders()),
        variant=facts.variant,
        limits=limits,
        began_ms=facts.began_ms,
        status=live.recording.status,
        remark=live.recording.remark,
        elapsed_ms=progress.elapsed_ms,
        remaining_bytes=progress.remaining_bytes,
        total_bytes=progress.total_bytes,
        sent_bytes=progress.sent_bytes,
        bandwidth_bytes_per_s=progress.bandwidth_bytes_per_s,
        dirty_bytes_per_s=progress.dirty_bytes_per_s,
        throttle_percent=progress.throttle_percent,
        iteration_count=progress.iteration_count,
        dirty_sync_count=progress.dirty_sync_count,
        percent=outlook.percent,
        converges=outlook.converges,
        least_left_ms=whole_ms(outlook.least_s),
        median_left_ms=whole_ms(outlook.median_s),
        most_left_ms=whole_ms(outlook.most_s),
        needed_percent=outlook.needed_percent,
        lost_vcpu_s=live.lost_vcpu_s,
        deadline_left_ms=whole_ms(live.deadline_left_s) if limits else None,
        said=live.said,
    )


def _kept(rule: Rule) -> KeptLimits:
    limits = rule.limits
    return KeptLimits(
        finish_by_ms=None if limits.deadline_ns is None else limits.deadline_ns // NS_PER_MS,
        max_downtime_ms=limits.max_downtime_ms,
        max_guest_loss_percent=limits.max_guest_loss_percent,
        max_guest_loss_vcpu_s=None if limits.max_guest_loss_ns is None else limits.max_guest_loss_ns / NS_PER_S,
        max_throttle_percent=limits.max_throttle_percent,
        on_limit=limits.on_limit,
    )
