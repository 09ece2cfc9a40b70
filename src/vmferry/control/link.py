"""Watches from outside whether a migration sends anything: says when it does not, and calls it off after a time.

Whether that is the link's fault nobody sees from outside: a QEMU sends nothing either while it waits for a vCPU that is
slowed and holds its lock.
"""

from collections.abc import Callable

from vmferry.client.monitor import Monitor
from vmferry.control.asking.progress import Progress
from vmferry.convergence.link import LinkWatch
from vmferry.units import NS_PER_S

PATIENCE_NS = 2 * NS_PER_S


class LinkKeeper:
    """Follows one migration; `tell` is told when nothing is sent any more, and when something is again."""

    def __init__(
        self, monitor: Monitor, timeout_ns: int, tell: Callable[[str], None], *, slows_on_silence: bool
    ) -> None:
        """`timeout_ns` is for how long nothing may be sent, 0 for ever.

        `slows_on_silence` if the guest may be slowed for that, as by the auto-converge of QEMU 9.2 and later.
        """
        self.watch = LinkWatch(PATIENCE_NS)
        self._monitor = monitor
        self._timeout_ns = timeout_ns
        self._tell = tell
        self._slows_on_silence = slows_on_silence
        self._told_ns = 0
        self._last_ns: int | None = None

    def observe(self, progress: Progress, now_ns: int) -> str | None:
        """Look at one answer to `query-migrate`, and return why the migration should be called off, if it should."""
        if progress.status == "active":
            self._look(progress, now_ns)
        elif self._last_ns is not None:
            self.watch.pass_over(now_ns - self._last_ns)
        self._last_ns = now_ns
        still_ns = self.watch.still_ns
        if 0 < self._timeout_ns <= still_ns:
            return f"next to nothing was sent for {still_ns / NS_PER_S:.0f} s (stall-timeout)"
        return None

    def _look(self, progress: Progress, now_ns: int) -> None:
        sent_bytes, remaining_bytes = progress.sent_bytes or 0, progress.remaining_bytes or 0
        self.watch.look(now_ns, sent_bytes, remaining_bytes)
        if self.watch.still_ns and not self._told_ns:  # or has somebody lowered the limit?
            limit = self._monitor.execute("query-migrate-parameters").get("max-bandwidth", 0)
            self.watch.look(now_ns, sent_bytes, remaining_bytes, limit)
        still_ns = self.watch.still_ns
        if still_ns and not self._told_ns:
            self._tell(f"next to nothing was sent for {still_ns / NS_PER_S:.1f} s{self._remark(progress)}")
        if self._told_ns and not still_ns:
            self._tell(f"memory is sent again after {self._told_ns / NS_PER_S:.1f} s")
        self._told_ns = still_ns

    def _remark(self, progress: Progress) -> str:
        if progress.throttle_percent:
            return f", while the guest is slowed by {progress.throttle_percent} %"
        return "" if self._slows_on_silence else "; the guest is not slowed for that"
