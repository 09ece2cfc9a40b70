"""When to look at what a guest writes, for the policy `planned`, and for how long."""

from dataclasses import replace

from vmferry.convergence.sensing import View
from vmferry.convergence.written import SLICE_NS, Written
from vmferry.units import NS_PER_MS, NS_PER_S

_LONGEST_NS, _LONGEST_SLOWED_NS = 2 * NS_PER_S, NS_PER_S
"""Windows hold two slices of a throttled guest, or last a second."""
_QUOTA_PERIOD_NS = 100 * NS_PER_MS
"""One that is slowed evenly gets its share at least so often."""
_SETTLING_NS = 4 * NS_PER_MS
"""How much longer it runs when a throttle begins."""
_MAX_DOUBLINGS = 10


class Cadence:
    """Windows get twice as long each time, and begin anew under a new throttle."""

    def __init__(self) -> None:
        self._looked_ns = 0
        """When the dirty log was last looked at."""
        self._free_looks = self._slowed_looks = 0
        """How often it was looked at, unslowed, and since the throttle has changed."""
        self._has_changed = False
        """True until something is found after the throttle has changed."""

    def found(self, view: View, written: Written) -> Written:
        """Take notice of what was found; return it with the time added that a guest needs to be slowed."""
        self._looked_ns = view.elapsed_ns
        if view.throttle_percent:
            self._slowed_looks += 1
        else:
            self._free_looks += 1
        if not (self._has_changed and written.slowed):
            return written
        self._has_changed = False
        return replace(written, cpu_share=min(1.0, written.cpu_share + _SETTLING_NS / written.duration_ns))

    def throttled(self) -> None:
        """Take notice that the throttle changes."""
        self._slowed_looks = 0
        self._has_changed = True

    def due_ns(self, view: View, shortest_ns: int) -> int | None:
        """Return for how long to look, if it is time to; a look that is due is taken to be made.

        A sync looks back, and a measurement from outside looks ahead: while the guest is slowed, one follows another.
        """
        window_ns = self.window_ns(view, shortest_ns)
        looks_ahead = view.sensed.again_bytes is None
        pause_ns = 0 if looks_ahead and view.throttle_percent else window_ns
        if view.written or view.sensed.measuring or view.elapsed_ns - self._looked_ns < pause_ns:
            return None
        self._looked_ns = view.elapsed_ns
        return window_ns

    def window_ns(self, view: View, shortest_ns: int) -> int:
        """Return how long a look lasts now, where at first it is to last so long."""
        if not view.throttle_percent:
            return min(shortest_ns << min(self._free_looks, _MAX_DOUBLINGS), _LONGEST_NS)
        slices_ns = 2 * _QUOTA_PERIOD_NS
        if view.sensed.throttle_slice_ns:
            slices_ns = min(2 * SLICE_NS * 100 // (100 - view.throttle_percent), _LONGEST_SLOWED_NS)
        shortest_ns = max(shortest_ns, slices_ns)
        return max(shortest_ns, min(shortest_ns << min(self._slowed_looks, _MAX_DOUBLINGS), _LONGEST_SLOWED_NS))
