"""One sentence that says why a guest converges, or why it does not, by its dirty curve and its link."""

import math

import numpy as np

from vmferry.study.prices import Prices
from vmferry.study.survey import Survey
from vmferry.units import NS_PER_S, format_duration, format_rate, format_size

_STEADY = 0.05


def reason(survey: Survey, price: Prices, chance: float) -> str:
    """Return the sentence; `chance` is that without a throttle."""
    if survey.paused and chance == 1:
        return f"As long as it is paused, only the {format_size(survey.used_bytes)} that it uses have to be sent."
    fits_bytes = survey.memory_bytes_per_s * survey.downtime_limit_ms // 1000
    set_bytes = _distinct_bytes(survey, survey.used_bytes / survey.memory_bytes_per_s)
    fits = f"{format_size(fits_bytes)} fit {survey.downtime_limit_ms} ms"
    rewrites = f"it rewrites {format_size(set_bytes)}{_within(survey, set_bytes)}, and {fits}"
    if chance and survey.bursts and set_bytes > fits_bytes:
        calm = "It moves in a calm" if chance == 1 else "It moves if it comes to a calm that is long enough"
        share = f"{survey.bursts.busy_share:.0%} of the time"
        return f"{calm}: {rewrites}; it was seen to write much in {share}, and little in the rest."
    if chance == 1:
        if set_bytes <= fits_bytes:
            return f"All that it writes while its memory is sent is {format_size(set_bytes)}, and {fits}."
        return f"The link is faster than the guest: {rewrites}; what it writes shrinks from pass to pass."
    needed = format_duration(set_bytes / survey.memory_bytes_per_s * NS_PER_S)
    rate = link_of(survey)
    if chance:
        return f"The guest writes about as fast as {rate} carries it away: {rewrites}; to send them takes {needed}."
    if price.throttle_percent is None:
        return f"The guest writes faster than {rate} however it is slowed: {rewrites}; to send them takes {needed}."
    return f"The guest writes faster than {rate} carries it away: {rewrites}; to send them takes {needed}."


def link_of(survey: Survey) -> str:
    """Return what the link carries, and of what."""
    rate = format_rate(survey.bandwidth_bytes_per_s)
    if survey.shrinking is None or survey.times_smaller == 1:
        return rate
    packs = survey.shrinking.packed_bytes_per_s
    slowly = f", packed at {format_rate(packs)}" if packs == survey.memory_bytes_per_s else ""
    return f"{rate} of pages {survey.times_smaller:.1f} times smaller{slowly}"


def _within(survey: Survey, set_bytes: int) -> str:
    """Say in what time most of its set is written, as far as that was seen."""
    times_ns = sorted(point.duration_ns for point in survey.written)
    for time_ns in times_ns:
        if _distinct_bytes(survey, time_ns / NS_PER_S) >= (1 - _STEADY) * set_bytes > 0:
            return f" within {format_duration(time_ns)}"
    return ""


def _distinct_bytes(survey: Survey, work_s: float) -> int:
    distinct = float(survey.curve().distinct_bytes(np.array([work_s * NS_PER_S]))[0])
    return min(survey.used_bytes, math.ceil(distinct))
