"""What a guest was found to write between two looks at its dirty log: the points of its dirty curve."""

from dataclasses import dataclass

from vmferry.units import NS_PER_MS

SLICE_NS = 10 * NS_PER_MS
"""How long a throttled vCPU runs at a time, in QEMU (`CPU_THROTTLE_TIMESLICE_NS`) as in our VMs."""
_HARDLY_SLOWED = 0.95


@dataclass(frozen=True)
class Written:
    """What was found between two looks, each page once."""

    duration_ns: int
    cpu_share: float
    """What the throttle left of the time, 0 to 1."""
    distinct_bytes: int
    vcpu_bytes: tuple[int, ...] | None = None
    """What each vCPU wrote of it; None if nobody knows."""

    @property
    def slowed(self) -> bool:
        """True if a throttle was in force that takes more than a guest notices, as the 1 % of a QEMU that stands by."""
        return self.cpu_share < _HARDLY_SLOWED

    @property
    def cpu_ns(self) -> float:
        """How long the guest was let run."""
        return self.duration_ns * self.cpu_share
