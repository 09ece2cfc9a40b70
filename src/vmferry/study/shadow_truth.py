"""How true a policy in the shadow of a migration was: what it foretold of its throttles, and what comes of them.

Each of its decisions stands for itself, as if the migration had been handed over to it at that moment. So each is
replayed by itself: the recorded guest is slowed as it was until then, and from then on as the policy wanted.
"""

from collections.abc import Iterator, Sequence

import msgspec

from vmferry.convergence.policies.planned import MOVED_IN
from vmferry.migration.events import Shadowed
from vmferry.migration.journal import Entry
from vmferry.study.replay import Replay, began_ns, throttle_of
from vmferry.units import MS_PER_S, NS_PER_MS


class ForetoldThrottle(msgspec.Struct, frozen=True, kw_only=True):
    """A throttle that a policy in the shadow wanted, and what it expected of that."""

    variant: str
    """Whose policy it is."""
    seen_ms: int
    """How long the migration had run when it was wanted."""
    throttle_percent: int
    """The throttle that it wanted from then on."""
    foretold_ms: int
    """How long it was to take from then on."""
    replayed_ms: int | None
    """How long that takes when it is replayed; null if it does not end."""
    error_percent: float | None
    """By how much longer the replay takes than was foretold; null if it does not end."""

    @property
    def ratio(self) -> float | None:
        """How many times as long the replay takes as was foretold; None if it does not end."""
        return None if self.replayed_ms is None else max(1, self.replayed_ms) / self.foretold_ms


def foretold_by_shadows(replay: Replay, entries: Sequence[Entry]) -> Iterator[ForetoldThrottle]:
    """Yield what shadows foretold in the migration of these entries, of which `replay` was made."""
    start_ns, throttle = began_ns(entries), list(throttle_of(entries))
    for entry in entries:
        event, at_ns = entry.event, max(0, entry.time_ns - start_ns)
        if not isinstance(event, Shadowed) or event.throttle_percent is None or event.figures.get(MOVED_IN, 0) <= 0:
            continue
        until_then = [(time_ns, percent) for time_ns, percent in throttle if time_ns < at_ns]
        result = replay.slowed_by([*until_then, (at_ns, event.throttle_percent)])
        seen_ms, foretold_ms = at_ns // NS_PER_MS, max(1, round(event.figures[MOVED_IN] * MS_PER_S))
        replayed_ms = max(0, (result.total_time_ms or 0) - seen_ms) if result.completed else None
        yield ForetoldThrottle(
            variant=event.variant,
            seen_ms=seen_ms,
            throttle_percent=event.throttle_percent,
            foretold_ms=foretold_ms,
            replayed_ms=replayed_ms,
            error_percent=None if replayed_ms is None else 100 * (replayed_ms / foretold_ms - 1),
        )
