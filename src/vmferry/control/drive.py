"""Drives one migration through a source's monitor, from the settings to the last state.

It polls `query-migrate`, as any QMP client would, and knows nothing of the VM behind the monitor.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.convergence.limit_watch import Verdict
from vmferry.errors import CancelledError, MigrationError, VmLeftError
from vmferry.migration.ports import Clock

POLL_INTERVAL_NS = 100_000_000
IN_POSTCOPY = "the migration is in post-copy, where cancelling would lose the guest, so it goes on"
CANCEL_TIMEOUT_NS = 10_000_000_000
"""How long to wait for the end of a migration that was cancelled."""
_FIGURES_POLLS = 10
_NS_PER_S = 1_000_000_000
_END_STATES = frozenset({"completed", "failed", "cancelled", "in-doubt"})


@dataclass(frozen=True)
class Progress:
    """One answer to `query-migrate`, reduced to what people watch."""

    status: str
    elapsed_ms: int | None
    iteration_count: int | None
    dirty_sync_count: int | None
    remaining_bytes: int | None
    total_bytes: int | None
    sent_bytes: int | None
    sent_pages: int | None
    """How many pages were sent. None also if some went as differences or compressed, which are counted otherwise."""
    zero_pages: int | None
    """How many of those were zero."""
    bandwidth_bytes_per_s: float | None
    dirty_bytes_per_s: float | None
    throttle_percent: int | None
    page_size: int
    downtime_ms: int | None
    downtime_parts_ms: dict[str, float] | None
    error: str | None

    @classmethod
    def from_qmp(cls, answer: Mapping[str, Any]) -> "Progress":
        """Reduce an answer of our own or of QEMU's monitor; what it does not tell is None."""
        ram = answer.get("ram", {})
        dirty_sync_count = ram.get("dirty-sync-count")
        page_size = ram.get("page-size", 4096)
        counted_otherwise = {"xbzrle-cache", "compression"} & answer.keys()
        return cls(
            status=answer.get("status", "none"),
            elapsed_ms=answer.get("total-time"),
            iteration_count=ram.get("iteration-count", dirty_sync_count),
            dirty_sync_count=dirty_sync_count,
            remaining_bytes=ram.get("remaining"),
            total_bytes=ram.get("total"),
            sent_bytes=ram.get("transferred"),
            sent_pages=None if counted_otherwise or "normal" not in ram else ram["normal"] + ram.get("duplicate", 0),
            zero_pages=ram.get("duplicate"),
            bandwidth_bytes_per_s=ram["mbps"] * 1e6 / 8 if "mbps" in ram else None,
            dirty_bytes_per_s=ram["dirty-pages-rate"] * page_size if "dirty-pages-rate" in ram else None,
            throttle_percent=answer.get("cpu-throttle-percentage", 0) if ram else None,  # left out where there is none
            page_size=page_size,
            downtime_ms=answer.get("downtime"),
            downtime_parts_ms=answer.get("downtime-parts"),
            error=answer.get("error-desc"),
        )

    def after(self, earlier: "Progress") -> "Progress":
        """Return this with the figures that it does not tell, as of a cancelled migration, as they were seen last."""
        seen = {field.name: getattr(earlier, field.name) for field in fields(self) if getattr(self, field.name) is None}
        return replace(self, **seen)

    @property
    def ended(self) -> bool:
        """True if this is the last state."""
        return self.status in _END_STATES

    @property
    def in_postcopy(self) -> bool:
        """True if the guest runs on the destination while memory is still here."""
        return self.status.startswith("postcopy")

    @property
    def running(self) -> bool:
        """True from the acceptance of a migration until its end."""
        return self.status != "none" and not self.ended


class ArrivalState(StrEnum):
    """What is known of a guest's arrival."""

    VERIFIED = "verified"
    UNVERIFIED = "unverified"


@dataclass(frozen=True)
class Arrival:
    """Whether the guest has arrived, and who says so."""

    state: ArrivalState
    by: str
    """`protocol`, `return-path`, `libvirt`, `destination`, or `nobody`."""
    text: str


@dataclass(frozen=True)
class Result:
    """A migration that has ended, with the figures that were seen last, and the highest throttle on the way."""

    last: Progress
    max_throttle_percent: int | None
    """None if no figures were ever seen."""
    verdicts: tuple[Verdict, ...] = ()
    throttle_by: str | None = None
    """The means by which the guest was to be slowed from outside; None if that was not for us."""
    throttle_reasons: tuple[str, ...] = ()
    """Why not by a means that comes before it."""
    interrupted_by: int | None = None
    """The number of the signal that cancelled it; None if none did."""
    policy_broken: bool = False
    """True if it was called off because its policy is broken."""
    vm_left: bool = False
    """True if the VM's manager says that it has migrated, and has ended it here."""
    arrival: Arrival | None = None
    """Whether the guest has arrived; None if the migration did not complete, or nobody asked."""
    not_put_back: tuple[str, ...] = ()
    """QMP commands that put back what the VM refused to have put back."""

    @property
    def completed(self) -> bool:
        """True if the guest was handed over."""
        return self.last.status == "completed"


def set_up(monitor: Monitor, parameters: Mapping[str, object], *, auto_converge: bool) -> None:
    """Set capabilities and parameters. Raises CommandError if the VM refuses one; then none is set."""
    state = [{"capability": "auto-converge", "state": auto_converge}]
    if parameters:
        monitor.execute("migrate-set-parameters", dict(parameters))
    monitor.execute("migrate-set-capabilities", {"capabilities": state})


def ask(monitor: Monitor) -> Progress:
    """Return how far the migration is."""
    return Progress.from_qmp(monitor.execute("query-migrate"))


def drive(
    monitor: Monitor, uri: str, watch: Callable[[Progress], object], clock: Clock, cancel: CancelToken | None = None
) -> Result:
    """Migrate to `uri` and return how it ended; `watch` is called with every poll before.

    `cancel` cancels the migration, whoever sets it; the result then says so. In post-copy it does nothing.
    """

    def observe(progress: Progress) -> Progress:
        watch(progress)
        return progress

    return follow(
        monitor,
        clock,
        observe,
        cancel or CancelToken(),
        cancelled=lambda: cancel_migration(monitor),
        begin=lambda: monitor.execute("migrate", {"uri": uri}),
    )


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
            waited = f"it was cancelled, but has not ended {CANCEL_TIMEOUT_NS / _NS_PER_S:g} s later"
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
    observe: Callable[[Progress], Progress],
    cancel: CancelToken,
    *,
    cancelled: Callable[[], bool] | None = None,
    pause: Callable[[], None] | None = None,
    begin: Callable[[], object] = lambda: None,
    cancellation: Cancellation | None = None,
    ended: Callable[[Progress], object] = lambda progress: None,
) -> Result:
    """Follow a migration to its end. `observe` is called with every poll and may complete what it says.

    `begin` is called once, before the first poll, and `pause` waits between two. When `cancel` is set, `cancelled` says
    whether it has cancelled the migration, and following goes on; without it, CancelledError is raised. Once that was
    done, or the migration has ended, the token is closed. `ended` gets the last state at once, maybe before its figures
    are there. `cancellation` is told by whoever else cancels; the end is then waited for only so long, and if it does
    not come the last state is `cancelling`. If whoever manages the VM ends it before it has told that it has migrated,
    the last figures are from before.
    """
    max_throttle_percent: int | None = None
    progress = Progress.from_qmp({})
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
                begin()
            for answer in polls(monitor, clock, pause, ended):
                progress = cancellation.seen(answer.after(progress))
                if progress.ended or cancellation.gives_up(progress):
                    return result(progress)
                throttle_percent = observe(progress).throttle_percent
                if throttle_percent is not None:
                    max_throttle_percent = max(max_throttle_percent or 0, throttle_percent)
                cancel.check()
        except VmLeftError:
            return result(replace(progress, status="completed"), vm_left=True)
        except CancelledError:
            if cancelled is None:
                raise
            cancel.close()
            interrupted_by = cancel.signal_number
            if cancelled():
                cancellation.begin()


def polls(
    monitor: Monitor,
    clock: Clock,
    pause: Callable[[], None] | None = None,
    ended: Callable[[Progress], object] = lambda progress: None,
) -> Iterator[Progress]:
    """Yield how far the migration is, after each `pause`, up to and with the last state, which `ended` gets first."""
    pause = pause or (lambda: clock.sleep_ns(POLL_INTERVAL_NS))
    while not (progress := ask(monitor)).ended:
        yield progress
        pause()
    ended(progress)
    yield _with_figures(monitor, clock, progress)


def cancel_migration(monitor: Monitor) -> bool:
    """Cancel the migration unless it is in post-copy, where memory is on both sides and cancelling costs the guest.

    Returns whether it was cancelled.
    """
    if ask(monitor).in_postcopy:
        return False
    monitor.execute("migrate_cancel")
    return True


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


def require_completed(result: Result) -> Result:
    """Return the result of a completed migration. Raises MigrationError with the reason otherwise."""
    if not result.completed:
        reason = f": {result.last.error}" if result.last.error else ""
        raise MigrationError(f"the migration ended as '{result.last.status}'{reason}")
    return result
