"""The running pass over memory: how fast it goes, and what the guest has done since it began."""

import math
from collections import deque
from collections.abc import Iterable

import numpy as np

from vmferry.convergence.curve import DirtyCurve
from vmferry.convergence.passes import Situation
from vmferry.convergence.policies.moment import Moment
from vmferry.convergence.sensing import Sensed, View
from vmferry.convergence.unslowed import at_next_pass
from vmferry.units import NS_PER_MS, NS_PER_S

AHEAD_NS = 250 * NS_PER_MS
"""A body from outside looks ten times per second; a throttle that is to hold from the next pass on begins so early."""
_RATES = 8
_MOMENT_NS = 40 * NS_PER_MS
_SHORTER, _STILL_SHORTER = 0.95, 0.9
"""Passes get shorter if one is this share of the one before, and the next one is foretold to be this share of it."""
_CHUNK_BYTES = 1 << 30
"""QEMU's default (`x-clear-bitmap-shift`)."""


class PassWatch:
    """Follows one migration, look by look."""

    def __init__(self) -> None:
        self._number: int | None = None
        self._last_ns = self._begun_ns = 0
        self._last_bytes = self._drained_bytes = self._begun_bytes = self._begun_sent_bytes = 0
        self._before_bytes = 0
        """What the pass before began with."""
        self._reading_ns = 0
        self._has_read = False
        """True if memory that nobody has touched was read in the running period, which holds up what is sent."""
        self._sending_bytes_per_s = 0.0
        """The bandwidth that was measured last while no such memory was read."""
        self._worked_ns = 0.0
        """What the guest has got done since the pass began."""
        self._counted_ns = self._counted_bytes = 0
        """From when on what is sent is not among the rates yet. A slow link moves in steps, so time in which nothing
        was sent counts with what follows."""
        self._rates: deque[float] = deque(maxlen=_RATES)
        self._usual_bytes_per_s = 0.0
        """The upper quartile of the rates; 0 before there are any."""

    def look(self, view: View, curve: DirtyCurve) -> None:
        """Take notice of where the migration is."""
        self._follow_pass(view, curve)
        self._follow_link(view)

    def situation(self, view: View, curve: DirtyCurve, window_ns: int) -> Situation | None:
        """Return where the migration is, looks lasting so long; None as long as nobody knows how fast the link is."""
        sensed, bytes_per_s = view.sensed, self._bytes_per_s(view.sensed)
        if not bytes_per_s:
            return None
        return Situation(
            pending_bytes=sensed.remaining_bytes,
            pending_ns=sensed.reading_ns + self.remaining_ns(sensed.remaining_bytes, bytes_per_s),
            again_bytes=self._again_bytes(sensed, curve),
            sync_ns=self._sync_ns(sensed, window_ns),
            bandwidth_bytes_per_s=bytes_per_s,
            threshold_bytes=bytes_per_s * sensed.downtime_limit_ns / NS_PER_S,
            throttle_percent=view.throttle_percent,
            slice_ns=sensed.throttle_slice_ns,
            worked_ns=self._worked_ns,
            wire_share=sensed.wire_share,
            ahead_ns=AHEAD_NS if sensed.again_bytes is None else 0.0,
        )

    def remaining_ns(self, remaining_bytes: int, bytes_per_s: float) -> float:
        """Return how long the rest of the pass takes if it goes on as it did; zero pages go faster than the link."""
        passed_ns, passed_bytes = self._last_ns - self._begun_ns, self._begun_bytes - remaining_bytes
        drained = passed_bytes * NS_PER_S / passed_ns if passed_ns > 0 and passed_bytes > 0 else 0.0
        return remaining_bytes / max(drained, bytes_per_s) * NS_PER_S

    def shrinks(self, moment: Moment) -> bool:
        """Tell whether passes get shorter by themselves from the one on that begins now, or soon."""
        now, before_bytes = moment.situation, self._before_bytes
        if not moment.view.iteration_began:
            now, before_bytes = at_next_pass(moment.curve, now), self._begun_bytes
        following = at_next_pass(moment.curve, now)
        is_shorter = now.pending_bytes < _SHORTER * before_bytes
        return is_shorter and following.pending_bytes < _STILL_SHORTER * now.pending_bytes

    def _follow_pass(self, view: View, curve: DirtyCurve) -> None:
        sensed = view.sensed
        if sensed.iteration_count != self._number:
            self._number, self._worked_ns = sensed.iteration_count, 0.0
            self._before_bytes = self._begun_bytes
            self._begun_ns, self._begun_bytes = view.elapsed_ns, sensed.remaining_bytes
            self._begun_sent_bytes = sensed.sent_bytes
        else:
            share = 1 - view.throttle_percent / 100
            self._worked_ns += curve.work_ns(view.elapsed_ns - self._last_ns, share)
            self._drained_bytes += self._last_bytes - sensed.remaining_bytes
        self._last_ns, self._last_bytes = view.elapsed_ns, sensed.remaining_bytes

    def _follow_link(self, view: View) -> None:
        sensed = view.sensed
        if sensed.reading_ns < self._reading_ns:
            self._has_read = True
        elif sensed.reading_ns == self._reading_ns:
            self._sending_bytes_per_s = sensed.bandwidth_bytes_per_s
        self._reading_ns = sensed.reading_ns
        sent_bytes = sensed.sent_bytes - self._counted_bytes
        if view.period and sent_bytes and self._was_sending(sent_bytes):
            self._rates.append(sent_bytes * NS_PER_S / (view.elapsed_ns - self._counted_ns))
            self._usual_bytes_per_s = _upper_quartile(self._rates)
        if self._has_read or (view.period and sent_bytes) or not self._counted_ns:
            self._counted_ns, self._counted_bytes = view.elapsed_ns, sensed.sent_bytes

    def _sync_ns(self, sensed: Sensed, window_ns: int) -> float:
        """Return from how long before its sending on a write makes a page dirty again, at the most.

        QEMU arms the log of all pages at once when a pass begins that is no longer than a chunk.
        """
        if sensed.rearms_late:
            return 0.0
        if sensed.again_bytes is None:
            return math.inf if self._begun_bytes <= _CHUNK_BYTES else 0.0
        return window_ns

    def _bytes_per_s(self, sensed: Sensed) -> float:
        """Return what the link carries: the upper quartile of what it did with enough to do.

        At first that is what it does now, and before that what it may, or else what was sent in this pass in a moment.
        0 if nobody knows.
        """
        may = float(sensed.max_bandwidth_bytes_per_s)
        return self._usual_bytes_per_s or self._sending_bytes_per_s or may or self._sent_bytes_per_s(sensed)

    def _sent_bytes_per_s(self, sensed: Sensed) -> float:
        passed_ns = self._last_ns - self._begun_ns
        return (sensed.sent_bytes - self._begun_sent_bytes) * NS_PER_S / passed_ns if passed_ns >= _MOMENT_NS else 0.0

    def _again_bytes(self, sensed: Sensed, curve: DirtyCurve) -> float:
        """Return what is dirty again for the next pass.

        Where nobody tells, it is as in QEMU, which arms the log of a chunk when it comes to its first page: all that
        was written in the running chunk, and half of what was in those that are sent.
        """
        if sensed.again_bytes is not None:
            return sensed.again_bytes
        written = float(curve.distinct_bytes(np.array([self._worked_ns]))[0])
        armed_bytes = (self._begun_bytes - sensed.remaining_bytes) / 2 + _CHUNK_BYTES
        return written * min(1.0, armed_bytes / max(1, self._begun_bytes))

    def _was_sending(self, sent_bytes: int) -> bool:
        """Tell whether next to nothing was zero of what has left the pass since this was asked last."""
        was_sending = not self._has_read and sent_bytes >= self._drained_bytes / 2
        self._drained_bytes, self._has_read = 0, False
        return was_sending


def _upper_quartile(rates: Iterable[float]) -> float:
    """Return what one of four is above, between two of them in proportion."""
    ascending = sorted(rates)
    below, part = divmod(0.75 * (len(ascending) - 1), 1)
    low, high = ascending[int(below)], ascending[math.ceil(0.75 * (len(ascending) - 1))]
    return low + part * (high - low)
