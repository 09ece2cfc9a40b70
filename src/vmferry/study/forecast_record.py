"""What is told to scripts of a forecast."""

import msgspec

from vmferry.convergence.written import Written
from vmferry.study.forecast import StrategyForecast
from vmferry.study.prices import Prices
from vmferry.units import NS_PER_MS


class WrittenInTime(msgspec.Struct, frozen=True, kw_only=True):
    """How much of its memory the guest was found to write in a time, each page once."""

    duration_ms: float
    cpu_share: float
    """What a throttle left it of the time, 0 to 1."""
    distinct_bytes: int
    vcpu_bytes: list[int] | None
    """What each vCPU wrote of it; null if nobody knows."""

    @classmethod
    def of(cls, written: Written) -> "WrittenInTime":
        """Return what was found."""
        return cls(
            duration_ms=written.duration_ns / NS_PER_MS,
            cpu_share=written.cpu_share,
            distinct_bytes=written.distinct_bytes,
            vcpu_bytes=None if written.vcpu_bytes is None else list(written.vcpu_bytes),
        )


class ForecastRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What a migration would come to before it begins, by every strategy."""

    vm: str
    """The name of the VM, or of the journal that tells of it."""
    verdict: str
    """Whether it converges by the best strategy: `will`, `may` or `will not`."""
    reason: str
    memory_bytes: int
    used_bytes: int
    """How much of its memory is not zero; all of it where nobody can tell."""
    vcpu_count: int
    written: list[WrittenInTime]
    bandwidth_bytes_per_s: int
    """What the migration may use of the link."""
    times_smaller: float | None
    """How many times smaller pages are on it than in memory: 1 if they go as they are, null if nobody knows."""
    downtime_limit_ms: int
    qemu: str
    """The modelled QEMU that is most like the one it runs in; empty for a VM of ours."""
    demand: float
    """The share of its CPU that the guest wants, as far as anybody has seen; 1 if nobody has."""
    paused: bool
    """True if the guest did not run when it had been measured, so that nobody knows what it writes."""
    unknown: list[str]
    """What could not be found out."""
    strategies: list[StrategyForecast]
    prices: Prices
