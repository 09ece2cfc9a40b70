"""Reads from the journal of an earlier migration how a guest writes: the survey for a forecast."""

from collections.abc import Sequence

from vmferry.convergence.written import Written
from vmferry.errors import UsageError
from vmferry.experiment.dirty_trace import DirtyTrace
from vmferry.migration.events import RecordedBy, Started
from vmferry.migration.journal import Entry
from vmferry.study.replay import read_replay
from vmferry.study.shrinking import Shrinking
from vmferry.study.survey import QEMU_OLD, Survey
from vmferry.units import PAGE_SIZE_BYTES


def survey_of(
    entries: Sequence[Entry], where: str, bandwidth_bytes_per_s: int | None, downtime_limit_ms: int | None
) -> Survey:
    """Return what the journal of one migration, whose first entry is `started`, tells of its guest and its link.

    Raises UsageError that begins with `where` if it tells too little.
    """
    started = entries[0].event
    assert isinstance(started, Started)
    replay = read_replay(entries, where, {}, {})
    trace, link = replay.trace, replay.scenario.link
    unknown = ["whether the guest still does what it did when the journal was written"]
    if trace.rate_is_lower_bound:
        unknown.append("how fast the guest writes: every sync found all of its set written")
    if bandwidth_bytes_per_s is None:
        unknown.append("what the link carries now: it is taken to be as it was then")
        if replay.link_rate_is_lower_bound:
            unknown.append("whether the link carries more than was sent")
    shrinks = replay.times_smaller
    if shrinks > 1:
        unknown.append(f"whether pages will again be {shrinks:.1f} times smaller on the wire")
    recorded_limit = started.parameters.get("downtime-limit")
    limit_ms = downtime_limit_ms if downtime_limit_ms is not None else recorded_limit
    if not isinstance(limit_ms, int):
        raise UsageError(f"{where}: it tells no downtime-limit; give --downtime-limit, such as 300ms")
    return Survey(
        memory_bytes=started.page_count * PAGE_SIZE_BYTES,
        used_bytes=trace.used_pages * PAGE_SIZE_BYTES,
        vcpu_count=started.vcpu_count,
        written=tuple(_points(trace)),
        bandwidth_bytes_per_s=bandwidth_bytes_per_s or round(link.shared(link.rate_bytes_per_s) / shrinks),
        shrinking=Shrinking(times_smaller=shrinks),
        downtime_limit_ms=limit_ms,
        qemu="" if started.recorded_by is RecordedBy.VM else QEMU_OLD,
        unknown=tuple(unknown),
    )


def _points(trace: DirtyTrace) -> list[Written]:
    """Return the corners of the curve, and its shortest sample."""
    lengths_ns = sorted({trace.shortest_ns, *(round_ns for _, round_ns in trace.sweeps)})
    return [Written(ns, 1.0, round(trace.curve(ns) * PAGE_SIZE_BYTES)) for ns in lengths_ns]
