"""The host of a modelled guest: how it slows the guest, and what it knows of it."""

from dataclasses import dataclass

from vmferry.simulation.busy_host import BusyHost
from vmferry.simulation.costs import FREE, GuestCosts


@dataclass(frozen=True, kw_only=True)
class HostModel:
    """What KVM and the host do beside running the guest."""

    costs: GuestCosts = FREE
    """What it takes the migration to look at the guest's memory."""
    throttle_slice_ns: int = 0
    """A throttled vCPU sleeps first and then runs for so long, again and again, as under KVM; 0: it runs evenly slower.
    """
    dirty_ring: bool = False
    """Whether it knows which vCPU has written what, as KVM's dirty ring tells."""
    busy: BusyHost | None = None
    """When it has processors for the guest; None if it always has."""


IDEAL_HOST = HostModel()
"""Looking at memory costs nothing here, and the guest alone uses it."""
