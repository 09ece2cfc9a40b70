"""One migration that goes on, as it is shown: how far it is, what there is to expect, what was said."""

from vmferry.agent.log import Log
from vmferry.agent.recording import Foretold, Recording
from vmferry.agent.reins import Reins
from vmferry.agent.sketch import Sketch
from vmferry.bounds import one_line
from vmferry.control.asking.progress import NOTHING_SEEN, Progress
from vmferry.control.telling.outlook import NOTHING_EXPECTED, Outlook, Outlooks
from vmferry.migration.events import Started
from vmferry.units import MS_PER_S, NS_PER_S

_MAX_SAID = 200
_MAX_VCPUS = 4096
"""More are no QEMU's."""
_LOOK_AHEAD_MS = 500
"""How often it is worked out what there is to expect, which costs more than all else that is done with a poll."""


class Live:
    """A migration that goes on."""

    def __init__(self, recording: Recording, log: Log, reins: Reins, key: str) -> None:
        """`key` tells it from all other migrations of this agent."""
        self.recording = recording
        self.reins = reins
        self.key = key
        self.progress = NOTHING_SEEN
        """As it was seen last."""
        self.outlook = NOTHING_EXPECTED
        """What there is to expect."""
        self.said: list[str] = []
        """The last lines for people, the newest at the end."""
        self.sketch = Sketch()
        self._log = log
        self._outlooks: Outlooks | None = None
        self._look_ahead_at_ms = 0
        """After how much of the migration to look ahead next."""

    @property
    def deadline_left_s(self) -> float | None:
        """Time until the deadline, below 0 once that is over; None if there is none, or nobody knows how far it is."""
        deadline_ns = self.reins.rule.limits.deadline_ns
        if deadline_ns is None or self.progress.elapsed_ms is None:
            return None
        return deadline_ns / NS_PER_S - self.progress.elapsed_ms / MS_PER_S

    @property
    def lost_vcpu_s(self) -> float | None:
        """What throttles have taken of all vCPUs so far; None if that is not all known."""
        started = self._started()
        if started is None or self.outlook.lost_s is None:
            return None
        return self.outlook.lost_s * started.vcpu_count

    @property
    def vcpu_throttle_percents(self) -> tuple[int, ...]:
        """The throttle of each vCPU; empty if nobody knows."""
        started = self._started()
        if started is None or self.progress.throttle_percent is None:
            return ()
        count = min(started.vcpu_count, _MAX_VCPUS)
        return (self.progress.vcpu_throttle_percents or (self.progress.throttle_percent,) * count)[:count]

    def watch(self, progress: Progress) -> None:
        """Take note of how far it is."""
        if self._outlooks is None and (limit_ms := self._downtime_limit_ms()) is not None:
            self._outlooks = Outlooks(limit_ms)
        self.progress = progress
        if self._outlooks:
            self._outlooks.notice(progress)
            self._look_ahead(self._outlooks, progress)
        self.sketch.add(progress, self.outlook)
        self.reins.looked()

    def _look_ahead(self, outlooks: Outlooks, progress: Progress) -> None:
        """Work out what there is to expect, if it is time to."""
        elapsed_ms = progress.elapsed_ms or 0
        if progress.running and elapsed_ms < self._look_ahead_at_ms:
            return
        self._look_ahead_at_ms = elapsed_ms + _LOOK_AHEAD_MS
        self.outlook = outlooks.outlook(progress)
        self.recording.foretold = self.recording.foretold or _foretold(progress, self.outlook)

    def tell(self, text: str) -> None:
        """Say what happens."""
        self._keep(text)
        self._log.info(text)

    def warn(self, text: str) -> None:
        """Say what somebody should look at."""
        self._keep(text)
        self._log.warn(text)

    def _keep(self, text: str) -> None:
        self.said = [*self.said[1 - _MAX_SAID :], one_line(text)]

    def _started(self) -> Started | None:
        entries = self.recording.course.entries
        started = entries[0].event if entries else None
        return started if isinstance(started, Started) else None

    def _downtime_limit_ms(self) -> int | None:
        started = self._started()
        limit_ms = started.parameters.get("downtime-limit") if started else None
        return limit_ms if isinstance(limit_ms, int) else None


def _foretold(progress: Progress, outlook: Outlook) -> Foretold | None:
    """Return what is foretold of a migration that goes on."""
    if not progress.running or progress.elapsed_ms is None:
        return None
    if outlook.least_s is None or outlook.median_s is None or outlook.most_s is None:
        return None
    return Foretold(
        elapsed_ms=progress.elapsed_ms,
        least_left_ms=round(outlook.least_s * MS_PER_S),
        median_left_ms=round(outlook.median_s * MS_PER_S),
        most_left_ms=round(outlook.most_s * MS_PER_S),
    )
