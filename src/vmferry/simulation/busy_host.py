"""A host that is short of processors: now and then others have them, and no vCPU of the guest runs.

A throttle by sleeps loses what others take of its slices. A quota does not: it counts processor time, so a vCPU that
had to wait uses it later, as long as its period lasts (CFS bandwidth control).
"""

from collections.abc import Iterator

import numpy as np

from vmferry.units import NS_PER_MS

_QUOTA_PERIOD_NS = 100 * NS_PER_MS


class BusyHost:
    """Asked for one stretch of time after the other. Times with and without processors take turns; how long each is, is
    drawn from exponential distributions."""

    def __init__(self, stolen: float, stolen_for_ns: int, random: np.random.Generator) -> None:
        """Others have a share `stolen` of the time, above 0 and below 1, for so long at a time in the mean."""
        self._means_ns = (stolen_for_ns * (1 - stolen) / stolen, float(stolen_for_ns))
        self._random = random
        self._is_stolen = True
        self._until_ns = 0
        self._unused_ns: dict[float, float] = {}
        """By throttle: what of its quota a vCPU did not come to use yet."""

    def free(self, start_ns: int, end_ns: int) -> Iterator[tuple[int, int]]:
        """Yield the times in which there are processors."""
        while start_ns < end_ns:
            if start_ns >= self._until_ns:
                self._is_stolen = not self._is_stolen
                self._until_ns = start_ns + max(1, round(self._random.exponential(self._means_ns[self._is_stolen])))
            stop_ns = min(end_ns, self._until_ns)
            if not self._is_stolen:
                yield start_ns, stop_ns
            start_ns = stop_ns

    def forget_quotas(self) -> None:
        """Begin anew: the throttles have changed."""
        self._unused_ns.clear()

    def used_ns(self, passed_ns: int, free_ns: int, percent: float) -> int:
        """Return for how long a vCPU runs with the quota of that throttle; there were processors for `free_ns`."""
        left = 1 - percent / 100
        quota_ns = self._unused_ns.get(percent, 0.0) + passed_ns * left
        used_ns = min(free_ns, int(quota_ns))
        self._unused_ns[percent] = min(quota_ns - used_ns, _QUOTA_PERIOD_NS * left)
        return used_ns
