"""What is known of a guest before it migrates: measured at its VM, or read from the journal of an earlier migration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from vmferry.convergence.curve import DirtyCurve, curve_of
from vmferry.convergence.written import Written
from vmferry.study.bursts import Bursts, Look, bursts_of
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
    paused: bool = False
    """True if it did not run when it had been measured."""
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
