"""Following a migration to its end by polling `query-migrate`, as any QMP client would."""

from collections.abc import Iterator
from dataclasses import replace

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.control.asking.progress import NOTHING_SEEN, POLL_INTERVAL_NS, Progress, ask
from vmferry.control.asking.result import Result
from vmferry.errors import CancelledError, VmLeftError
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_S

CANCEL_TIMEOUT_NS = 10 * NS_PER_S
"""How long to wait for the end of a migration that was cancelled."""
_FIGURES_POLLS = 10


class Follower:
    """What is done on the way by whoever follows a migration: nothing here, and in subclasses what they wish."""

    def begin(self) -> None:
        """Begin, once, before the first poll."""

    def observe(self, progress: Progress) -> Progress:
        """Look at a poll, and return it, maybe with more than the VM told."""
        return progress

    def pause(self, clock: Clock) -> None:
        """Wait until the next poll."""
        clock.sleep_ns(POLL_INTERVAL_NS)

    def ended(self, progress: Progress) -> None:
        """Take the last state at once, maybe before its figures are there."""

    def cancel(self, asked: CancelledError) -> bool:
        """Cancel the migration as it was asked for; return whether that was done. Following goes on.

        Raises `asked` if whoever follows only stops following.
        """
        raise asked


class Cancellation:
    """Whether a migration was cancelled, and how long its end is still waited for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._end_ns: int | None = None

    def begin(self) -> None:
        """Take note that the migration was cancelled just now. Harmless if it was."""
        if self._end_ns is None:
            self._end_ns = self._clock.now_ns() + CANCEL_TIMEOUT_NS

    def seen(self, progress: Progress) -> Progress:
        """Return what an answer means in the light of this."""
        if self._end_ns is not None and progress.status == "none":
            return replace(progress, status="cancelled")  # before it had begun
        if self._is_overdue and not progress.ended:
            waited = f"it was cancelled, but has not ended {CANCEL_TIMEOUT_NS / NS_PER_S:g} s later"
            return replace(progress, status="cancelling", error=waited)
        return progress

    def gives_up(self, progress: Progress) -> bool:
        """Tell whether to wait no longer, as `seen` has found."""
        return self._is_overdue and progress.status == "cancelling"

    @property
    def _is_overdue(self) -> bool:
        return self._end_ns is not None and self._clock.now_ns() > self._end_ns


def follow(
    monitor: Monitor,
    clock: Clock,
    cancel: CancelToken,
    follower: Follower,
    cancellation: Cancellation | None = None,
) -> Result:
    """Follow a migration to its end.

    The token is closed when it is set, and when the migration has ended. `cancellation` is told by whoever else
    cancels; the end is then waited for only so long, and if it does not come the last state is `cancelling`. If whoever
    manages the VM ends it before it has told that it has migrated, the last figures are from before.
    """
    max_throttle_percent: int | None = None
    progress = NOTHING_SEEN
    cancellation = cancellation or Cancellation(clock)
    interrupted_by: int | None = None
    begun = False

    def result(last: Progress, *, vm_left: bool = False) -> Result:
        cancel.close()
        managed = _as_managed(monitor, last)
        return Result(managed, max_throttle_percent, interrupted_by=interrupted_by, vm_left=vm_left)

    while True:
        try:
            if not begun:
                begun = True
                follower.begin()
            for answer in _polls(monitor, clock, follower):
                progress = cancellation.seen(answer.after(progress))
                if progress.ended or cancellation.gives_up(progress):
                    return result(progress)
                throttle_percent = follower.observe(progress).throttle_percent
                if throttle_percent is not None:
                    max_throttle_percent = max(max_throttle_percent or 0, throttle_percent)
                cancel.check()
        except VmLeftError:
            return result(replace(progress, status="completed"), vm_left=True)
        except CancelledError as asked:
            cancel.close()
            interrupted_by = cancel.signal_number
            if follower.cancel(asked):
                cancellation.begin()


def _polls(monitor: Monitor, clock: Clock, follower: Follower) -> Iterator[Progress]:
    """Yield how far the migration is, after each pause, up to and with the last state."""
    while not (progress := ask(monitor)).ended:
        yield progress
        follower.pause(clock)
    follower.ended(progress)
    yield _with_figures(monitor, clock, progress)


def _with_figures(monitor: Monitor, clock: Clock, progress: Progress) -> Progress:
    """Ask again for the figures: QEMU says `completed` a moment before it has worked out how long it took."""
    for _ in range(_FIGURES_POLLS):
        if progress.elapsed_ms or progress.status != "completed":
            break
        clock.sleep_ns(POLL_INTERVAL_NS)
        progress = ask(monitor)
    return progress


def _as_managed(monitor: Monitor, progress: Progress) -> Progress:
    """Put in what the VM's manager says of its own migration; QEMU does not know since when the guest was suspended."""
    manager = monitor.manager
    if progress.status != "completed" or not (manager and manager.migrates):
        return progress
    said = manager.completion()
    if said.arrived is False:
        return replace(progress, status="failed", error=f"{manager.name} lets the VM run on at the source")
    return replace(progress, downtime_ms=said.downtime_ms, downtime_parts_ms=None)
