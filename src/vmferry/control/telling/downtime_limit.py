"""The downtime limit of a migration, which others may raise while it runs, as OpenStack does step by step."""

from collections.abc import Callable

from vmferry.units import format_ms


class DowntimeLimitWatch:
    """Notices that somebody raises the limit above what is allowed; it is theirs to set, so it is only told."""

    def __init__(self, allowed_ms: int | None, tell: Callable[[str], None]) -> None:
        """`allowed_ms` is the highest limit that the operator allows; None allows any."""
        self._allowed_ms = allowed_ms
        self._tell = tell
        self._last_ms = allowed_ms
        self._highest_ms = 0
        """The highest limit above what is allowed; 0 if there was none."""

    def look(self, limit_ms: int) -> None:
        """Look at the limit that is in force."""
        if self._allowed_ms is not None and self._allowed_ms < limit_ms != self._last_ms:
            self._highest_ms = max(self._highest_ms, limit_ms)
            allowed, limit = format_ms(self._allowed_ms), format_ms(limit_ms)
            self._tell(f"somebody has set the downtime limit to {limit}, above the {allowed} of --max-downtime")
        self._last_ms = limit_ms

    def remark(self) -> str:
        """Return what the verdict on the downtime has to add; empty is nothing."""
        return f"; somebody had raised its limit to {format_ms(self._highest_ms)}" if self._highest_ms else ""
