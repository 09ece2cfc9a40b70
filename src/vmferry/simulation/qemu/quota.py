"""A CPU quota on a modelled guest: a means of slowing it from outside (`control/slowing/actuators.py`)."""

from collections.abc import Container

from vmferry.errors import HostError
from vmferry.simulation.qemu.host import QUOTA, STILL_PERCENT, Host


class ModelledQuota:
    """Takes effect at once. Implements the `Throttle` protocol."""

    name = "cgroup"
    takes_time = True
    told_by_qemu = False
    delays_stop = True
    description = "CPU quota of a modelled guest"

    def __init__(self, host: Host, lost: Container[int] = ()) -> None:
        """The quotas of the numbers in `lost`, counted from 1, somebody takes away."""
        self.in_force_percent = 0
        self._host = host
        self._lost = lost
        self._count = 0

    def apply(self, percent: int, unthrottled: object) -> None:
        """Set the quota. Raises HostError if it is not permitted any more."""
        self._count += 1
        if self._count in self._lost:
            raise HostError("somebody has taken the right to set quotas away")
        self._host.throttle(QUOTA, percent)
        self.in_force_percent = percent

    def hold_still(self) -> None:
        """Let the guest run for no more than the shortest quota in the longest period."""
        self._host.throttle(QUOTA, STILL_PERCENT)
        self.in_force_percent = 99

    def hold(self) -> None:
        """Nobody else changes it."""

    def release(self) -> None:
        """Let the guest run freely."""
        self._host.release_quota()
        self.in_force_percent = 0
