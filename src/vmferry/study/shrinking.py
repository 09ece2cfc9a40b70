"""By how much compression makes pages smaller on the wire, and what that makes of a link."""

import math
from dataclasses import dataclass

from vmferry.client.monitor import Monitor
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.migration.compression import WORTH

_SAMPLING = "x-query-compression"


@dataclass(frozen=True, kw_only=True)
class Shrinking:
    """How the pages of one guest shrink."""

    times_smaller: float
    packed_bytes_per_s: int | None = None
    """How fast guest memory can be packed; None where that holds nothing up."""
    only_if_faster: bool = False
    """Whether pages go as they are where packing them is not worth it."""

    def applies(self, link_bytes_per_s: int) -> bool:
        """Return whether pages are packed for a link that carries so much."""
        return not self.only_if_faster or self._packed_bytes_per_s(link_bytes_per_s) > WORTH * link_bytes_per_s

    def memory_bytes_per_s(self, link_bytes_per_s: int) -> int:
        """Return how fast guest memory moves over such a link."""
        return self._packed_bytes_per_s(link_bytes_per_s) if self.applies(link_bytes_per_s) else link_bytes_per_s

    @property
    def most_useful_bytes_per_s(self) -> float:
        """What a link may carry without having to wait for pages to be packed."""
        if self.packed_bytes_per_s is None or self.only_if_faster:
            return math.inf
        return self.packed_bytes_per_s / self.times_smaller

    def _packed_bytes_per_s(self, link_bytes_per_s: int) -> int:
        carried = round(link_bytes_per_s * self.times_smaller)
        return carried if self.packed_bytes_per_s is None else min(carried, self.packed_bytes_per_s)


AS_THEY_ARE = Shrinking(times_smaller=1.0)
"""Pages that are not packed."""


def shrinking_of(monitor: Monitor, driven: DrivenVm) -> Shrinking | None:
    """Have a VM that packs its pages pack some of them for nothing. None if they shrink and it cannot tell how much.

    QEMU packs on the channels of `multifd` only. Raises MonitorError.
    """
    how = driven.parameters.get("multifd-compression", "none")
    packs = how != "none" and (driven.converges_responsively or driven.capabilities.get("multifd"))
    if driven.capabilities.get("xbzrle") or (packs and not driven.schema.has_command(_SAMPLING)):
        return None
    sample = monitor.execute(_SAMPLING) if packs else {"sample-pages": 0}
    if not sample["sample-pages"]:
        return AS_THEY_ARE
    return Shrinking(
        times_smaller=max(1.0, sample["ratio"]),
        packed_bytes_per_s=sample["compressed-rate"],
        only_if_faster=how == "auto",
    )
