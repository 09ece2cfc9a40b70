"""Does the link stand still? Slowing the guest cannot help a link that carries nothing.

A period in which nothing was sent looks like one in which the guest dirtied too much. So the time for which the link
stood still is cut out of what a policy is shown, in our engine and in driving from outside alike.
"""

from vmferry.units import NS_PER_MS, NS_PER_S

STILL_SHARE = 100
"""The link stands still while it carries less than 1/100 of its average since the beginning, or of the rate limit."""

_BETWEEN_BURSTS_NS = 150 * NS_PER_MS
"""A rate limit is kept by sending in bursts, ten per second."""


class LinkWatch:
    """Follows what is sent; `look` is called often, from the beginning on, by a body that wants to send all the time.

    The link stands still once there was no progress for `patience_ns`. Progress is what was sent, or pages that needed
    no sending, if it is enough for the time since the last progress: a trickle is none.
    """

    def __init__(self, patience_ns: int) -> None:
        self._patience_ns = patience_ns
        self._begun = False
        self._start_ns = self._progress_ns = self._now_ns = 0
        self._start_bytes = self._sent_bytes = self._remaining_bytes = 0
        self._past_still_ns = 0

    @property
    def still_ns(self) -> int:
        """How long the link has stood still; 0 if it carries something."""
        return self._silent_ns if self._silent_ns >= self._patience_ns else 0

    @property
    def total_still_ns(self) -> int:
        """How long it has stood still since the beginning, all times added up."""
        return self._past_still_ns + self.still_ns

    @property
    def _silent_ns(self) -> int:
        return self._now_ns - self._progress_ns

    def still_since(self, total_still_ns: int, period_ns: int) -> int:
        """Return how long it stood still in a period that is just over and began with this `total_still_ns`.

        Silence for half of the period counts even if it is shorter than the patience.
        """
        enough_ns = min(self._patience_ns, max(period_ns // 2, _BETWEEN_BURSTS_NS))
        now_ns = self._silent_ns if self._silent_ns >= enough_ns else 0
        return min(period_ns, self._past_still_ns - total_still_ns + now_ns)

    def look(self, now_ns: int, sent_bytes: int, remaining_bytes: int, limit_bytes_per_s: int = 0) -> None:
        """Take notice of what was sent in all, of what remains, which may grow, and of the rate limit, 0 for none."""
        if not self._begun:
            self._begun, self._start_ns, self._start_bytes = True, now_ns, sent_bytes
            self._now_ns = self._progress_ns = now_ns
            self._sent_bytes, self._remaining_bytes = sent_bytes, remaining_bytes
        if now_ns - self._now_ns > self._patience_ns:  # the body itself stood still
            self.pass_over(now_ns - self._now_ns)
        still_ns, self._now_ns = self.still_ns, now_ns
        self._remaining_bytes = max(self._remaining_bytes, remaining_bytes)
        moved_bytes = max(sent_bytes - self._sent_bytes, self._remaining_bytes - remaining_bytes)
        if moved_bytes and moved_bytes * STILL_SHARE >= self._usual_bytes(sent_bytes, limit_bytes_per_s):
            self._past_still_ns += still_ns
            self._progress_ns = now_ns
            self._sent_bytes, self._remaining_bytes = sent_bytes, remaining_bytes

    def pass_over(self, duration_ns: int) -> None:
        """Leave out a time in which the body was busy with something else and did not want to send."""
        self._now_ns += duration_ns
        self._progress_ns += duration_ns
        self._start_ns += duration_ns

    def _usual_bytes(self, sent_bytes: int, limit_bytes_per_s: int) -> int:
        """Return what the link carries on average in the time that has passed since the last progress."""
        usual_bytes = (sent_bytes - self._start_bytes) * self._silent_ns // max(1, self._now_ns - self._start_ns)
        limit_bytes = limit_bytes_per_s * self._silent_ns // NS_PER_S
        return min(usual_bytes, limit_bytes) if limit_bytes_per_s else usual_bytes
