"""What looking at guest memory costs in time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GuestCosts:
    """Nanoseconds for each page of the guest, or of what is looked at."""

    scan_ns_per_zero_page: float = 0.0
    """Reading a whole page to find it zero."""
    sync_ns_per_page: float = 0.0
    """Collecting and re-arming the dirty log; it matters at 1 TiB."""


FREE = GuestCosts()
"""Looking costs nothing."""
