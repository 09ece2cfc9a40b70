"""Looks at migrations that nobody carries out, for tests of policies and of the brain."""

from dataclasses import replace

from vmferry.convergence.sensing import Found, Period, Sensed, View

S = 1_000_000_000

NOTHING = Sensed(
    now_ns=0,
    sent_bytes=0,
    memory_bytes=1 << 40,
    remaining_bytes=1 << 40,
    again_bytes=None,
    threshold_bytes=0,
    bandwidth_bytes_per_s=0.0,
    downtime_limit_ns=S // 2,
    iteration_count=2,
    dirty_sync_count=2,
)


def sensed(seconds: float, sent_bytes: int = 0, found: Found | None = None, remaining_bytes: int = 1 << 40) -> Sensed:
    now_ns = round(seconds * S)
    return replace(NOTHING, now_ns=now_ns, sent_bytes=sent_bytes, found=found, remaining_bytes=remaining_bytes)


def period_view(dirty_bytes: int | None, sent_bytes: int, throttle_percent: int = 0) -> View:
    """What a policy is shown at the end of a period of two seconds; None is a mere look."""
    period = None
    if dirty_bytes is not None:
        period = Period(
            duration_ns=2 * S, dirty_bytes=dirty_bytes, sent_bytes=sent_bytes, throttle_percent=throttle_percent
        )
    return View(
        sensed=NOTHING,
        period=period,
        written=None,
        elapsed_ns=10 * S,
        throttle_percent=throttle_percent,
        lost_ns=0,
        vcpu_count=2,
        still_ns=0,
    )
