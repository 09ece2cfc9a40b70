"""How large a guest's memory is, and how much of it nobody has touched: that is read, found zero, and not sent."""

from dataclasses import dataclass, replace

from vmferry.client.monitor import Monitor
from vmferry.convergence.sensing import Sensed
from vmferry.units import PAGE_SIZE_BYTES


def memory_bytes(monitor: Monitor) -> int:
    """Return the size of a guest."""
    memory = monitor.execute("query-memory-size-summary")
    size: int = memory["base-memory"] + memory.get("plugged-memory", 0)
    return size


@dataclass(frozen=True)
class GuestMemory:
    """A guest's memory before it migrates."""

    size_bytes: int
    used_bytes: int | None
    """What the guest has touched; None if nobody knows."""
    scan_ns_per_zero_page: float

    def without_untouched(self, sensed: Sensed, zero_pages: int = 0) -> Sensed:
        """Return a look with what is left to read apart from what is left to send.

        So many zero pages were read already. After the first pass, a measurement may have QEMU read memory again that
        waited meanwhile.
        """
        if self.used_bytes is None:
            return sensed
        untouched_bytes = self.size_bytes - self.used_bytes - zero_pages * PAGE_SIZE_BYTES
        if sensed.dirty_sync_count > 1:
            untouched_bytes = sensed.remaining_bytes - self.used_bytes
        left_bytes = min(max(0, untouched_bytes), sensed.remaining_bytes)
        return replace(
            sensed,
            remaining_bytes=sensed.remaining_bytes - left_bytes,
            reading_ns=round(left_bytes / PAGE_SIZE_BYTES * self.scan_ns_per_zero_page),
        )
