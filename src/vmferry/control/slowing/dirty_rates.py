"""How fast a guest dirties memory when nothing slows it, and what that makes of a throttle."""

from collections.abc import Iterable
from dataclasses import dataclass

from vmferry.convergence.sensing import RateMeasured, RateSeen
from vmferry.convergence.written import Written
from vmferry.units import NS_PER_S


@dataclass(frozen=True)
class DirtyRates:
    """The rate of the whole guest, and of each vCPU where somebody has told."""

    bytes_per_s: float = 0.0
    vcpu_bytes_per_s: tuple[float, ...] | None = None

    @classmethod
    def found(cls, found: RateSeen | RateMeasured) -> "DirtyRates":
        """Return the rates that a sync or a measurement has just found."""
        each = found.vcpu_dirty_bytes_per_s if isinstance(found, RateMeasured) else None
        return cls(found.dirty_bytes_per_s, each)

    @classmethod
    def surveyed(cls, surveyed: Iterable[Written]) -> "DirtyRates":
        """Return the highest rate of what was measured before anything moved; 0 if nothing was."""
        return max((_rates(written) for written in surveyed), key=lambda rates: rates.bytes_per_s, default=cls())

    def raised(self, other: "DirtyRates") -> "DirtyRates":
        """Return the higher of two rates; one that is known of each vCPU comes before one that is not."""
        return max(self, other, key=lambda rates: (rates.vcpu_bytes_per_s is not None, rates.bytes_per_s))

    def ceiling(self, vcpu_count: int, percent: int) -> float:
        """Return what each vCPU may dirty per second, so that together they dirty `percent` less.

        Those that stay below it by themselves lose nothing. Where it is not known what each dirties, they share alike.
        """
        rates, part = self.vcpu_bytes_per_s, (100 - percent) / 100
        if rates is None or len(rates) != vcpu_count:
            return self.bytes_per_s * part / vcpu_count
        left = sum(rates) * part
        for number, rate in enumerate(sorted(rates)):
            others = vcpu_count - number
            if rate * others >= left:
                return left / others
            left -= rate
        return max(rates)


def _rates(written: Written) -> DirtyRates:
    per_s = NS_PER_S / written.duration_ns
    each = None if written.vcpu_bytes is None else tuple(found * per_s for found in written.vcpu_bytes)
    return DirtyRates(written.distinct_bytes * per_s, each)
