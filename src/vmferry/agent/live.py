"""One migration that goes on, as those who look at it see it: how far it is, what there is to expect, what was said."""

from vmferry.agent.log import Log
from vmferry.agent.recording import Foretold, Recording
from vmferry.bounds import one_line
from vmferry.control.outlook import Outlook, Outlooks
from vmferry.control.progress import Progress
from vmferry.migration.events import Started

_MAX_SAID = 200
_MS_PER_S = 1000


class Live:
    """A migration that goes on."""

    def __init__(self, recording: Recording, log: Log) -> None:
        self.recording = recording
        self.progress: Progress | None = None
        """As it was seen last."""
        self.outlook: Outlook | None = None
        """What there is to expect."""
        self.said: list[str] = []
        """The last lines for people, the newest at the end."""
        self._log = log
        self._outlooks: Outlooks | None = None

    def watch(self, progress: Progress) -> None:
        """Take note of how far it is."""
        if self._outlooks is None and (limit_ms := self._downtime_limit_ms()) is not None:
            self._outlooks = Outlooks(limit_ms)
        self.progress = progress
        if self._outlooks:
            self.outlook = self._outlooks.update(progress)
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

    def _downtime_limit_ms(self) -> int | None:
        entries = self.recording.course.entries
        started = entries[0].event if entries else None
        limit_ms = started.parameters.get("downtime-limit") if isinstance(started, Started) else None
        return limit_ms if isinstance(limit_ms, int) else None


def _foretold(progress: Progress, outlook: Outlook) -> Foretold | None:
    if progress.elapsed_ms is None or outlook.least_s is None or outlook.most_s is None:
        return None
    least_ms, most_ms = round(outlook.least_s * _MS_PER_S), round(outlook.most_s * _MS_PER_S)
    return Foretold(elapsed_ms=progress.elapsed_ms, least_left_ms=least_ms, most_left_ms=most_ms)
