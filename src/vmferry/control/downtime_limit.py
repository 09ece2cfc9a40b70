"""The downtime limit of a migration, which others may raise while it runs, as OpenStack does step by step."""

from collections.abc import Callable

from vmferry.client.monitor import Monitor
from vmferry.units import format_duration

_NS_PER_MS = 1_000_000


class DowntimeLimitWatch:
    """Notices that somebody raises the limit above what is allowed; it is theirs to set, so it is only told."""

    def __init__(self, monitor: Monitor, allowed_ms: int, tell: Callable[[str], None]) -> None:
        self._monitor = monitor
        self._allowed_ms = allowed_ms
        self._tell = tell
        self._last_ms = allowed_ms
        self.highest_ms = 0
        """The highest limit above what is allowed; 0 if there was none."""

    def look(self) -> None:
        """Ask for the limit that is in force. Raises MonitorError."""
        limit_ms = int(self._monitor.execute("query-migrate-parameters")["downtime-limit"])
        if limit_ms != self._last_ms and limit_ms > self._allowed_ms:
            self.highest_ms = max(self.highest_ms, limit_ms)
            allowed, limit = _text(self._allowed_ms), _text(limit_ms)
            self._tell(f"somebody has set the downtime limit to {limit}, above the {allowed} of --max-downtime")
        self._last_ms = limit_ms

    def remark(self) -> str:
        """Return what the verdict on the downtime has to add; empty is nothing."""
        return f"; somebody had raised its limit to {_text(self.highest_ms)}" if self.highest_ms else ""


def _text(duration_ms: int) -> str:
    return format_duration(duration_ms * _NS_PER_MS)
