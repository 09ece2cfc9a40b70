"""Where plans fail, the highest throttle is held for as long as passes show that it helps.

A plan is a forecast: guest, host or link may be other than what was measured of them. What the highest throttle does is
known for sure from the passes in which it was held. Each pass begins with what became dirty in the one before. While
they begin with less and less, or with so little that luck may do the rest, it is held on. Otherwise the guest is let
run, and not slowed again for many times as long: so hardly any of its work is lost in vain.
"""

from vmferry.convergence.sensing import View
from vmferry.units import NS_PER_S

HELD_NS = 4 * NS_PER_S
"""If no shorter pass has begun for so long, and one pass is over meanwhile, there will be none."""
_VAIN_NS = 8 * NS_PER_S
"""Against all that is foretold it is held only until the guest has lost so much, if it does not help much."""
_SHORTER = 0.95
"""A pass that begins with this share of what any before began with is a shorter one."""
_MUCH, _NEAR = 0.6, 5.0
"""It helps much if a pass begins with this share of what one began with before the guest was slowed. With so many times
what fits the downtime, luck may do the rest."""
_LUCK_NS = 6 * NS_PER_S
"""How long luck has for that, from the beginning of the last pass on that was shorter than any before."""
_REST = 60
"""So many times as long as it was held in vain, in all, the guest is left alone: what is lost in vain stays small."""


class LastResort:
    """Looks at all passes of a migration, and judges the throttle while it is held."""

    def __init__(self) -> None:
        self._begun_ns: int | None = None
        self._is_foretold = False
        """Whether a plan says that it helps."""
        self._free_bytes = 0
        """What a pass began with lately before which the guest was not slowed."""
        self._least_bytes = self._least_ns = 0
        """What a pass began with at the least since the throttle is held, and when that was."""
        self._passes = 0
        """How many have passed since, from beginning to end."""
        self._lost_ns = 0
        """What the guest had lost before it was held."""
        self._rests_until_ns = 0
        self._vain_ns = 0
        """For how long it was held in vain, in all."""

    @property
    def holds(self) -> bool:
        """True while the highest throttle is held."""
        return self._begun_ns is not None

    def rests(self, view: View) -> bool:
        """True if it was held in vain lately."""
        return view.elapsed_ns < self._rests_until_ns

    def look(self, view: View) -> None:
        """Take notice of the passes."""
        if not view.iteration_began:
            return
        remaining_bytes = view.iteration_remaining_bytes
        if not view.throttle_percent and view.sensed.iteration_count > 1:
            self._free_bytes = remaining_bytes
        self._passes += 1
        if remaining_bytes < _SHORTER * self._least_bytes:
            self._least_bytes, self._least_ns, self._passes = remaining_bytes, view.elapsed_ns, 0

    def may_begin(self, view: View) -> bool:
        """Tell whether it is time: at the beginning of a pass, or at any time if the guest is slowed already."""
        is_time = view.iteration_began or view.throttle_percent > 0
        return is_time and view.sensed.iteration_count > 1 and not self.rests(view)

    def begin(self, view: View, *, is_foretold: bool) -> None:
        """Take notice that the throttle is held from now on, which is to help, or is not."""
        self._begun_ns = self._least_ns = view.elapsed_ns
        self._is_foretold, self._lost_ns = is_foretold, view.lost_ns
        self._free_bytes = self._free_bytes or view.iteration_remaining_bytes
        self._least_bytes = view.iteration_remaining_bytes
        self._passes = 0 if view.iteration_began else -1

    def is_in_vain(self, view: View) -> bool:
        """Tell whether it does not help."""
        helps_much = self._least_bytes <= _MUCH * self._free_bytes
        is_near = helps_much and self._least_bytes <= _NEAR * view.sensed.threshold_bytes
        if not (helps_much or self._is_foretold) and view.lost_ns >= max(_VAIN_NS, self._lost_ns + HELD_NS):
            return True
        return self._passes > 0 and view.elapsed_ns - self._least_ns >= (_LUCK_NS if is_near else HELD_NS)

    def end(self, view: View) -> None:
        """Take notice that the guest is let run, and rest if the throttle was held."""
        if self._begun_ns is not None:
            self._vain_ns += view.elapsed_ns - self._begun_ns
            self._rests_until_ns = view.elapsed_ns + _REST * self._vain_ns
            self._begun_ns = None
