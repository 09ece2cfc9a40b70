"""A throttle that is held longer than was promised, and brings the guest no nearer, is let go for a while."""

from vmferry.convergence.goals import Plan
from vmferry.convergence.sensing import View
from vmferry.units import format_duration

_NS_PER_S = 1_000_000_000
_LATE, _LEAST_NS = 2.0, 4 * _NS_PER_S
_SOON = 0.1
"""A throttle is in vain if it is held for _LATE times what was promised, at least for _LEAST_NS, and what is promised
now is not short beside that."""
_REST = 5
"""After that none is tried for so many times as long, and for twice as many times after the next."""


class Trial:
    """The throttle in force, and what was expected of it."""

    def __init__(self) -> None:
        self._begun_ns: int | None = None
        self._promised_ns = 0.0
        self._rest = _REST
        self._rests_until_ns = 0

    def set(self, view: View, plan: Plan | None) -> None:
        """Take notice that a throttle begins, changes or ends by this plan; without one, it was in vain."""
        if plan and plan.percent_now:
            if self._begun_ns is None:
                self._begun_ns, self._promised_ns = view.elapsed_ns, plan.time_ns
            return
        if plan is None and self._begun_ns is not None:
            self._rests_until_ns = view.elapsed_ns + self._rest * (view.elapsed_ns - self._begun_ns)
            self._rest *= 2
        self._begun_ns = None

    def refuses(self, view: View, plan: Plan) -> str | None:
        """Return why the plan's throttle is not to be, if it was tried in vain."""
        if view.elapsed_ns < self._rests_until_ns:
            return "it was slowed in vain before"
        if self._begun_ns is None:
            return None
        held_ns = view.elapsed_ns - self._begun_ns
        if held_ns < _LEAST_NS:
            self._promised_ns = max(self._promised_ns, plan.time_ns)
        if held_ns < max(_LEAST_NS, _LATE * self._promised_ns) or plan.time_ns < _SOON * held_ns:
            return None
        return f"slowed for {format_duration(held_ns)} in vain"
