"""What is known of a guest before it migrates: measured at its VM, or read from the journal of an earlier migration."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from vmferry.convergence.curve import DirtyCurve, curve_of
from vmferry.convergence.written import Written
from vmferry.errors import UsageError
from vmferry.experiment.dirty_trace import DirtyTrace
from vmferry.memory.layout import PAGE_SIZE_BYTES
from vmferry.migration.events import RecordedBy, Started
from vmferry.migration.journal import Entry
from vmferry.study.bursts import Bursts, Look, bursts_of
from vmferry.study.replay import read_replay
from vmferry.study.shrinking import AS_THEY_ARE, Shrinking

QEMU_OLD, QEMU_NEW = "qemu-7.2", "qemu-10"
"""The modelled QEMUs: one whose auto-converge syncs at the end of passes only, and one since 9.2."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What is known of a guest and of the way that it is to go."""

    memory_bytes: int
    used_bytes: int
    """How much of its memory is not zero; all of it where nobody can tell."""
    vcpu_count: int
    written: tuple[Written, ...]
    bandwidth_bytes_per_s: int
    """What the migration may use of the link."""
    downtime_limit_ms: int
    shrinking: Shrinking | None = AS_THEY_ARE
    """What compression makes of pages; None if they are packed and nobody knows how small that makes them."""
    qemu: str = ""
    """The modelled QEMU that is most like the one it runs in; empty for a VM of ours."""
    own_parameters: Mapping[str, int | bool] = field(default_factory=dict)
    """Those of the VM's own auto-converge, by QMP name, where they are known."""
    demand: float = 1.0
    """The share of its CPU that the guest wants, as far as anybody has seen; 1 if nobody has."""
    unknown: tuple[str, ...] = ()
    """What could not be found out, in words."""
    looks: tuple[Look, ...] = ()
    """Every window in which its writing was measured, in order: those that are points of `written`, and then such as
    show whether it does always the same. None where nobody knows when they were."""

    @cached_property
    def bursts(self) -> Bursts | None:
        """What it does by turns; None as far as it was seen to do always the same."""
        return bursts_of(self.looks)

    @property
    def times_smaller(self) -> float:
        """How many times smaller pages are on the wire than in memory, as far as anybody knows."""
        return self._shrinking.times_smaller if self._shrinking.applies(self.bandwidth_bytes_per_s) else 1.0

    @property
    def memory_bytes_per_s(self) -> int:
        """How fast guest memory moves over the link."""
        return self._shrinking.memory_bytes_per_s(self.bandwidth_bytes_per_s)

    @property
    def most_useful_bytes_per_s(self) -> float:
        """What the link may carry without having to wait for pages to be packed."""
        return self._shrinking.most_useful_bytes_per_s

    @property
    def _shrinking(self) -> Shrinking:
        return self.shrinking or AS_THEY_ARE

    def curve(self) -> DirtyCurve:
        """Return what the guest writes; of one that rests, what it writes when it does not."""
        return curve_of(self.bursts.busy if self.bursts else self.written, self.memory_bytes)


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
