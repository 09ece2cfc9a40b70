"""Does compressing pays on this link, with this content? Measured, in turns, while pages move.

The link, a rate limit, the receiver, the guest's own need of processors: all of it is in the one figure that counts,
how many bytes of guest memory move per second. So both ways are tried, one phase each, and the faster one is kept for a
while; then the other is tried again, as the guest or the link may have changed. Where it loses, the next trial comes
later. Content that hardly shrinks needs no phase: a few batches show it.
"""

from dataclasses import dataclass

from vmferry.units import NS_PER_MS, NS_PER_S

_PHASE_NS = 300 * NS_PER_MS
"""Three windows of the rate limit."""
_PHASE_BATCHES = 8
_KEEP_NS = 5 * NS_PER_S
_LONGEST_KEEP_NS = 60 * NS_PER_S
WORTH = 1.1
"""By how much compressed must be smaller, and faster, to be preferred."""


@dataclass(frozen=True, kw_only=True)
class CompressionFigures:
    """What compressing has done so far in one migration."""

    on: bool
    """Whether pages are compressed now."""
    plain_bytes: int
    """Size of the pages that were compressed, as they are in memory."""
    compressed_bytes: int
    """What they were on the wire."""
    choices: int
    """How often measuring has come to a result; 0 where nothing is measured."""
    plain_bytes_per_s: int | None
    """How fast guest memory moved without compressing, at the latest trial; None if it was not measured."""
    compressed_bytes_per_s: int | None
    """How fast it moved with compressing."""

    @property
    def ratio(self) -> float | None:
        """How many times smaller compressing makes pages; None if none were compressed."""
        return self.plain_bytes / self.compressed_bytes if self.compressed_bytes else None


@dataclass(frozen=True, kw_only=True)
class CompressionSample:
    """What packing some of a guest's pages has come to, before anything moves."""

    page_count: int
    """How many were packed; 0 if it has none that would be sent."""
    ratio: float | None
    """How many times smaller they became; None if none were packed."""
    bytes_per_s: int | None
    """How fast guest memory can be packed, by all threads that would do so."""


class CompressionTrial:
    """Decides for each batch whether to compress it, and is told what moved."""

    def __init__(self, now_ns: int) -> None:
        self.on = True
        self.choices = 0
        self.bytes_per_s: dict[bool, int | None] = {True: None, False: None}
        """How fast guest memory moves with and without compressing."""
        self._is_trial = True
        self._keep_ns = _KEEP_NS
        self._keep_until_ns = 0
        self._begin_phase(now_ns)

    def moved(self, now_ns: int, *, compressed: bool, plain_bytes: int, wire_bytes: int) -> None:
        """Take note that a batch was sent."""
        if compressed != self.on:
            return  # it was begun in the phase before
        self._batches += 1
        self._plain_bytes += plain_bytes
        self._wire_bytes += wire_bytes
        if self._batches < _PHASE_BATCHES:
            return
        hopeless = self.on and self._plain_bytes < WORTH * self._wire_bytes
        if hopeless or now_ns - self._start_ns >= _PHASE_NS:
            elapsed_ns = max(1, now_ns - self._start_ns)
            self.bytes_per_s[self.on] = self._plain_bytes * NS_PER_S // elapsed_ns
            self._end_phase(now_ns, hopeless=hopeless)

    def _end_phase(self, now_ns: int, *, hopeless: bool) -> None:
        other = self.bytes_per_s[not self.on]
        if hopeless:
            self._choose(now_ns, on=False)
        elif self._is_trial and other is None:
            self.on = not self.on
        elif self._is_trial:
            plain, compressed = self.bytes_per_s[False] or 0, self.bytes_per_s[True] or 0
            self._choose(now_ns, on=compressed > WORTH * plain)
        elif now_ns >= self._keep_until_ns:
            self._is_trial, self.on = True, not self.on
        self._begin_phase(now_ns)

    def _choose(self, now_ns: int, *, on: bool) -> None:
        as_before = self.choices and on != self.on
        self._keep_ns = min(2 * self._keep_ns, _LONGEST_KEEP_NS) if as_before else _KEEP_NS
        self._keep_until_ns = now_ns + self._keep_ns
        self._is_trial, self.on = False, on
        self.choices += 1

    def _begin_phase(self, now_ns: int) -> None:
        self._start_ns = now_ns
        self._batches = self._plain_bytes = self._wire_bytes = 0
