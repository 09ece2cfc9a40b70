"""The throttle ladder: how far one step goes (QEMU `mig_throttle_guest_down`)."""

from vmferry.convergence.sample import SyncSample, ThrottleSettings


def next_throttle_percent(sample: SyncSample, settings: ThrottleSettings) -> int:
    """Return the throttle after one step up from `sample.throttle_percent`, at most the maximum."""
    if sample.throttle_percent == 0:
        return min(settings.initial_percent, settings.maximum_percent)
    increment = settings.increment_percent
    if settings.tailslow:
        increment = min(increment, _tailslow_increment(sample, settings))
    return min(sample.throttle_percent + increment, settings.maximum_percent)


def _tailslow_increment(sample: SyncSample, settings: ThrottleSettings) -> int:
    """Only as much as brings the dirtying down to the threshold, were it proportional to CPU time."""
    cpu_now = 100 - sample.throttle_percent
    allowed_bytes = sample.sent_bytes * settings.trigger_threshold_percent // 100
    cpu_ideal = cpu_now * allowed_bytes // sample.dirty_bytes
    return cpu_now - cpu_ideal
