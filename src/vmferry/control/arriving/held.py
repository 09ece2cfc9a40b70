"""A QEMU destination that runs its guest only when it is told to, so that there are never two running copies.

QEMU's source lets the guest run on if the destination's last word is lost, although the destination has loaded it. So
the destination is told `stop` while it waits, after which it keeps a guest that has arrived paused, whatever the stream
says (`qmp_stop` and `process_incoming_migration_bh` of QEMU). It is told `cont` once the source says that it is done.
"""

import select
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Self

from vmferry.client.monitor import Monitor
from vmferry.control.arriving.destination import WAITING, Destination
from vmferry.control.asking.progress import Progress, ask
from vmferry.control.asking.result import Result
from vmferry.control.asking.run_states import FINISHING, ran, run_state
from vmferry.control.undoing.promises import Promises
from vmferry.errors import MonitorError
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_MS, NS_PER_S

_STOPPED_POLL_NS = 10 * NS_PER_MS
"""How long to wait between two questions to the source while the guest stands still."""


class HeldDestination:
    """Holds the guest at the destination during one migration.

    A context manager; at its end people are warned of what they have to do at the destination, if anything.
    """

    def __init__(
        self,
        monitor: Monitor,
        clock: Clock,
        destination: Destination,
        guard: Promises,
        warn: Callable[[str], object],
    ) -> None:
        """`monitor` is the source's. If we cannot, `guard` lets the guest run once the source says that it is done.

        The destination is told to `hold` only after this was entered. Raises MonitorError and HostError.
        """
        self._monitor = monitor
        self._clock = clock
        self._destination = destination
        self._guard = guard
        self._warn = warn
        self._ran = ran(run_state(monitor), before=True)
        self._promise = guard.will_let_run(destination.monitor, self._ran)
        self._stopping = False
        self._asked_ns = clock.now_ns()
        self._is_decided = False
        """True once the guest was let run, or is to stay paused."""
        self._has_failed = False
        """True once the destination could not be told to let it run."""
        self._wait_ns: int | None = None

    def wait_ns(self, timeout_ns: int) -> None:
        """Wait this long, or until the source says something. While the guest stands still, wait only briefly."""
        timeout_ns = min(timeout_ns, _STOPPED_POLL_NS) if self._stopping else timeout_ns
        if self._monitor.descriptor is None:
            self._clock.sleep_ns(timeout_ns)
        else:
            select.select([self._monitor.descriptor], [], [], timeout_ns / NS_PER_S)
        self._asked_ns = self._clock.now_ns()

    def observe(self, progress: Progress) -> None:
        """Look at the source with every poll; in post-copy the guest is let run, as it never will here."""
        state = run_state(self._monitor)
        self._stopping = state == FINISHING
        if ran(state, self._ran) != self._ran:
            self._ran, old = not self._ran, self._promise
            self._promise = self._guard.will_let_run(self._destination.monitor, self._ran)
            self._guard.kept(old)
        if progress.in_postcopy and not self._is_decided:
            self._let_run()

    def ended(self, progress: Progress) -> None:
        """Let the guest run if the source has completed, and never if it has not."""
        if self._is_decided:
            return
        if progress.status == "completed":
            self._let_run()
        else:
            self._decided()

    def counted(self, result: Result) -> Result:
        """Add to the downtime how long the guest has waited for us, after the source had said that it was done."""
        downtime_ms = result.last.downtime_ms
        if not result.completed or downtime_ms is None or not self._ran:
            return result
        if not self._is_decided:
            return replace(result, last=replace(result.last, downtime_ms=None))
        wait_ms = -(-(self._wait_ns or 0) // NS_PER_MS)
        return replace(result, last=replace(result.last, downtime_ms=downtime_ms + wait_ms))

    def _look_once_more(self) -> None:
        """Decide now if nothing migrates, as after a migration that was refused; else that is for the guard."""
        with suppress(MonitorError):
            progress = ask(self._monitor)
            if not progress.running:
                self.ended(progress)

    def _let_run(self) -> None:
        try:
            if self._ran:
                self._destination.let_run()
                self._wait_ns = self._clock.now_ns() - self._asked_ns
            self._decided()
        except MonitorError as error:
            if not self._has_failed:
                self._warn(f"the guest was not let run at the destination: {error}; the guard process tries on")
            self._has_failed = True

    def _decided(self) -> None:
        self._is_decided = True
        self._guard.kept(self._promise)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._is_decided:
            self._look_once_more()
        match self._destination.status():
            case "paused" if self._ran:
                self._warn("the destination has the guest, and keeps it paused: end it if the source runs on")
            case state if state == WAITING and self._destination.is_held:
                self._warn("the destination will keep a guest paused; cont, while it waits, puts that back")
