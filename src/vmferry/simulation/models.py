"""The models of an experiment: how its guest writes, what looking at memory costs, its link."""

from collections.abc import Iterator

import msgspec
import numpy as np

from vmferry.experiment.parts import GuestSpec, LinkSpec, LoadSpec
from vmferry.memory.bitmap import Bitmap
from vmferry.simulation.busy_host import BusyHost
from vmferry.simulation.costs import GuestCosts
from vmferry.simulation.host_model import HostModel
from vmferry.simulation.link import LinkModel
from vmferry.simulation.patterns import (
    HotColdPattern,
    HotSpotPattern,
    MovingPattern,
    Pattern,
    SweepPattern,
    UniformPattern,
    parts_of,
)
from vmferry.simulation.trace_pattern import TracePattern
from vmferry.simulation.workload import Beside, Demand, Load, Turn, Turns, Work, Workload, Writer
from vmferry.units import NS_PER_S, PAGE_SIZE_BYTES


def workload_of(guest: GuestSpec, random: np.random.Generator) -> Workload:
    """Return what the guest does, where it is with that when the migration begins."""
    workload = _beginning(guest, random)
    if guest.ran_for_ns:
        ran_ns = int(random.integers(guest.ran_for_ns))
        workload.let_pass(ran_ns, ran_ns)
        workload.write(Bitmap(guest.page_count))
    return workload


def _beginning(guest: GuestSpec, random: np.random.Generator) -> Workload:
    """Return what the guest does from the first on; each vCPU takes its part in the loads that are for it, in turn."""
    vcpus = range(guest.vcpu_count)
    if any(load.trace for load in guest.loads):
        return Workload([Writer(vcpus, Turns(list(_turns_of_all(guest, random))))])
    return Workload([writer for vcpu in vcpus for writer in _writers(guest, vcpu, random)])


def costs_of(guest: GuestSpec) -> GuestCosts:
    """Return what looking at the guest's memory costs."""
    return GuestCosts(
        scan_ns_per_zero_page=_ns_per_page(guest.zero_scan_bytes_per_s),
        sync_ns_per_page=guest.sync_ns_per_page,
        populate_ns_per_page=_ns_per_page(guest.populate_bytes_per_s),
    )


def host_of(guest: GuestSpec, random: np.random.Generator) -> HostModel:
    """Return the host of a guest that our engine migrates."""
    return HostModel(
        costs=costs_of(guest),
        throttle_slice_ns=guest.throttle_slice_ns,
        dirty_ring=guest.dirty_ring,
        busy=busy_host_of(guest, random),
    )


def busy_host_of(guest: GuestSpec, random: np.random.Generator) -> BusyHost | None:
    """Return the host that the guest shares with others; None if it always has processors for it."""
    return BusyHost(guest.stolen, guest.stolen_for_ns, random) if guest.stolen else None


def _ns_per_page(bytes_per_s: int) -> float:
    return PAGE_SIZE_BYTES * NS_PER_S / bytes_per_s if bytes_per_s else 0.0


def link_of(link: LinkSpec) -> LinkModel:
    """Return the link, with what of its rate is there for the migration."""
    return LinkModel(
        bytes_per_s=link.shared(link.rate_bytes_per_s),
        latency_ns=link.latency_ns,
        jitter=link.jitter,
        jitter_interval_ns=link.jitter_interval_ns,
        rate_changes=tuple((time_ns, link.shared(rate)) for time_ns, rate in link.rate_changes),
        batch_pages=link.batch_page_count,
        loss_time_ns=link.lost_at_ns,
    )


def _writers(guest: GuestSpec, vcpu: int, random: np.random.Generator) -> Iterator[Writer]:
    """Yield what one vCPU does, if it does anything; what it writes independently of all else, one by one."""
    turns = []
    for load in guest.loads:
        vcpus = load.vcpus or range(guest.vcpu_count)
        if vcpu in vcpus:
            turns.append((load.duration_ns, _share(load, vcpus.index(vcpu), len(vcpus), random)))
    if len(turns) == 1 and not turns[0][1].demand:
        for pattern in parts_of(turns[0][1].pattern):
            yield Writer(range(vcpu, vcpu + 1), Turns([Turn(turns[0][0], Load(pattern))]))
    elif turns:
        yield Writer(range(vcpu, vcpu + 1), Turns([Turn(duration_ns, load) for duration_ns, load in turns]))


def _turns_of_all(guest: GuestSpec, random: np.random.Generator) -> Iterator[Turn]:
    """Yield what all vCPUs do together, one after the other; what comes again goes on where it was."""
    works: dict[LoadSpec, Work] = {}
    for load in guest.loads:
        kind = msgspec.structs.replace(load, duration_ns=0)
        if kind not in works:
            works[kind] = _whole(load, guest.vcpu_count, random)
        yield Turn(load.duration_ns, works[kind])


def _whole(load: LoadSpec, vcpu_count: int, random: np.random.Generator) -> Work:
    """Return what all vCPUs do together, whose CPU time is the same."""
    if load.trace:
        return Load(TracePattern(load.trace), _demand(load))
    return Beside([_share(load, vcpu, vcpu_count, random) for vcpu in range(vcpu_count)])


def _share(load: LoadSpec, place: int, of: int, random: np.random.Generator) -> Load:
    """Return the part of a load that the vCPU at a place among `of` takes: its pages, and as large a share of the rest.

    The pages of a vCPU that comes later lie behind those of the one before it.
    """
    first, end = (load.page_count * number // of for number in (place, place + 1))
    share = (end - first) / load.page_count if load.page_count else 0.0
    pattern = _pattern(load, load.first_page + first, end - first, share, random)
    return Load(pattern, _demand(load))


def _demand(load: LoadSpec) -> Demand | None:
    if not load.pace_bytes_per_s:
        return None
    return Demand(load.pace_bytes_per_s / load.write_bytes_per_s, load.every_ns)


def _pattern(load: LoadSpec, first_page: int, page_count: int, share: float, random: np.random.Generator) -> Pattern:
    """Return how a load writes its pages, of which these are a share."""
    rate = load.write_bytes_per_s / PAGE_SIZE_BYTES * share
    hot_count = max(1, round(load.working_set_bytes // PAGE_SIZE_BYTES * share))
    match load.pattern:
        case "uniform":
            return UniformPattern(first_page, page_count, rate, random)
        case "hot-cold":
            return HotColdPattern(first_page, page_count, rate, load.zipf_exponent, random)
        case "hot-spot" if page_count:
            return HotSpotPattern(first_page, page_count, rate, min(hot_count, page_count), load.hot_share, random)
        case "moving" if page_count:
            return MovingPattern(first_page, page_count, rate, min(hot_count, page_count), load.rounds)
        case "sweep":
            return SweepPattern(first_page, page_count, rate)
    return SweepPattern(first_page, page_count, 0.0)
