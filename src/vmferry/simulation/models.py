"""The models of an experiment: how its guest writes, what looking at memory costs, its link."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from vmferry.experiment.parts import GuestSpec, LinkSpec, LoadSpec
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.simulation.costs import GuestCosts
from vmferry.simulation.link import LinkModel
from vmferry.simulation.patterns import (
    HotColdPattern,
    Pattern,
    Phase,
    PhasedPattern,
    SweepPattern,
    Together,
    UniformPattern,
)
from vmferry.simulation.trace import Trace

_NS_PER_S = 1_000_000_000


def pattern_of(guest: GuestSpec, random: np.random.Generator) -> Pattern:
    """Return how the guest writes; the loads use the memory from its beginning on."""
    patterns = [_load_pattern(load, guest.vcpu_count, random) for load in guest.loads]
    if len(patterns) == 1:
        return patterns[0]
    durations_ns = (load.duration_ns for load in guest.loads)
    return PhasedPattern([Phase(*phase) for phase in zip(durations_ns, patterns, strict=True)])


def costs_of(guest: GuestSpec) -> GuestCosts:
    """Return what looking at the guest's memory costs."""
    scan_bytes_per_s = guest.zero_scan_bytes_per_s
    scan_ns = PAGE_SIZE_BYTES * _NS_PER_S / scan_bytes_per_s if scan_bytes_per_s else 0.0
    return GuestCosts(scan_ns, guest.sync_ns_per_page)


def link_of(link: LinkSpec) -> LinkModel:
    """Return the link, with what of its rate is there for the migration."""
    return LinkModel(
        bytes_per_s=link.shared(link.rate_bytes_per_s),
        latency_ns=link.latency_ns,
        jitter=link.jitter,
        jitter_interval_ns=link.jitter_interval_ns,
        rate_changes=tuple((time_ns, link.shared(rate)) for time_ns, rate in link.rate_changes),
        batch_pages=link.batch_bytes // PAGE_SIZE_BYTES,
        loss_time_ns=link.lost_at_ns,
    )


def _load_pattern(load: LoadSpec, vcpu_count: int, random: np.random.Generator) -> Pattern:
    """Return the pattern of all vCPUs, each of which writes its share."""
    if load.trace:
        return Trace(load.trace)
    page_count = load.memory_bytes // PAGE_SIZE_BYTES
    pages_per_s = load.write_bytes_per_s / PAGE_SIZE_BYTES
    makers: dict[str, Callable[[int, int, float], Pattern]] = {
        "idle": lambda first, count, rate: SweepPattern(first, count, 0.0),
        "sweep": lambda first, count, rate: SweepPattern(first, count, rate),
        "uniform": lambda first, count, rate: UniformPattern(first, count, rate, random),
        "hot-cold": lambda first, count, rate: HotColdPattern(first, count, rate, load.zipf_exponent, random),
    }
    make = makers[load.pattern]
    bounds = [page_count * number // vcpu_count for number in range(vcpu_count + 1)]
    return Together(
        [
            make(start, end - start, pages_per_s * (end - start) / page_count)
            for start, end in pairwise(bounds)
            if end > start
        ]
    )
