"""What a plan promised, and whether it is overdue.

It is counted in what is sent until then, so that a link that stands still breaks no promise.
"""

from vmferry.convergence.goals import Plan
from vmferry.convergence.sensing import View
from vmferry.units import NS_PER_S

_LATE, _LATE_NS = 1.25, 3 * NS_PER_S
"""A migration that has sent so many times what was promised, and that long more, is not as it was foretold."""


class Promise:
    """That of throttles that follow each other, or of none."""

    def __init__(self) -> None:
        self._is_slowed: bool | None = None
        """Whether it is that of throttles; None if there is none."""
        self._begun_bytes = self._slowed_bytes = 0
        """What was sent when it was made, and when a throttle was planned last."""
        self._promised_bytes = 0.0

    def made(self, view: View, plan: Plan, bytes_per_s: float) -> None:
        """Take notice of a plan. What is foretold in its first seconds counts, as more is known then.

        A guest that is let run for a moment only is still one that is slowed.
        """
        sent_bytes = view.sensed.sent_bytes
        is_recent = self._is_slowed is True and sent_bytes - self._slowed_bytes < _some_bytes(bytes_per_s)
        is_slowed = plan.percent_now > 0 or is_recent
        if plan.percent_now:
            self._slowed_bytes = sent_bytes
        if self._is_slowed is not is_slowed:
            self._is_slowed, self._begun_bytes, self._promised_bytes = is_slowed, sent_bytes, 0.0
        since_bytes = sent_bytes - self._begun_bytes
        if since_bytes <= _some_bytes(bytes_per_s):
            self._promised_bytes = max(self._promised_bytes, since_bytes + plan.time_ns * bytes_per_s / NS_PER_S)

    def forget(self) -> None:
        """Begin anew."""
        self._is_slowed = None

    def is_overdue(self, view: View, bytes_per_s: float) -> bool:
        """Tell whether it should have been kept long ago."""
        if self._is_slowed is None:
            return False
        return view.sensed.sent_bytes - self._begun_bytes > _LATE * self._promised_bytes + _some_bytes(bytes_per_s)


def _some_bytes(bytes_per_s: float) -> float:
    return _LATE_NS * bytes_per_s / NS_PER_S
