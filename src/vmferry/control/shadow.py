"""A policy in the shadow of a migration that somebody else drives: it decides, and nothing of it is done.

It is asked at every poll what it would do now, of the guest as it is: slowed by somebody else or not at all. So each
of its decisions stands for itself, as if the migration were handed over to it at that moment.
"""

from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.sensors import DirtyRate
from vmferry.control.body import DriverBody
from vmferry.control.deciding import DEFAULTS, loaded, make_brain
from vmferry.control.link import PATIENCE_NS
from vmferry.control.ports import Ports
from vmferry.control.recorder import Recorder
from vmferry.control.undoing.settings import Settings
from vmferry.control.vm_record import VmRecord
from vmferry.convergence.actions import Action, Measure, SetDowntimeLimit, Throttle
from vmferry.convergence.limits import Limits
from vmferry.convergence.link import LinkWatch
from vmferry.convergence.sensing import Body, Found, SyncSeen
from vmferry.convergence.variants import Variant
from vmferry.migration.events import Shadowed
from vmferry.migration.lost_work import LostWork
from vmferry.units import NS_PER_S

EVERYTHING = ~Body(0)


class ShadowBody(DriverBody):
    """Senses what the VM's monitor tells by itself, and only records what the brain decides."""

    def __init__(
        self,
        ports: Ports,
        driven: DrivenVm,
        variant: Variant,
        limits: Limits,
        recorder: Recorder | VmRecord,
        lost: LostWork,
    ) -> None:
        """`limits` are those that it would keep; `lost` is the account of what is really taken from the guest.

        Raises UsageError if the policy cannot be had, and PolicyError if it is broken.
        """
        parameters = DEFAULTS.changed(limits.applied_to(variant.named(loaded), DEFAULTS.as_qmp()))
        self._link = LinkWatch(PATIENCE_NS)
        brain = make_brain(ports, parameters, EVERYTHING, self._link, lost, runs_already=True)
        super().__init__(ports, brain, parameters.rules(limits), Settings(ports.monitor, ports.clock, driven), recorder)
        self._name = variant.name
        self._syncs, self._sync_ns = 1, ports.clock.now_ns()
        """QEMU's dirty-sync-count, and when that was seen first."""
        self._would: dict[type[Action], int | None] = {Throttle: 0}
        """The newest decision of each kind, by the number that tells it from others."""

    def _find(self, progress: Progress) -> tuple[Found | None, DirtyRate | None]:
        """Return what a dirty sync of the VM has found, if there was one; nothing is measured."""
        now_ns = self._ports.clock.now_ns()
        self._link.look(now_ns, progress.sent_bytes or 0, progress.remaining_bytes or 0)
        self._brain.throttle_percent = progress.throttle_percent or 0
        count = (progress.dirty_sync_count or 0) - self._syncs
        if count <= 0:
            return None, None
        passed_ns = now_ns - self._sync_ns
        self._syncs, self._sync_ns = self._syncs + count, now_ns
        dirty_bytes = round((progress.dirty_bytes_per_s or 0) * passed_ns / NS_PER_S)
        # Several short passes see a page once each, so of them together nobody knows how many were written.
        return SyncSeen(dirty_bytes, dirty_bytes if count == 1 else None), None

    def _obey(self, action: Action, progress: Progress, found: Found | None, rate: DirtyRate | None) -> None:
        """Record it, if it would change something and is another decision than the newest of its kind."""
        kind, number = type(action), _number_of(action)
        is_known = kind in self._would and self._would[kind] == number
        self._would[kind] = number
        agrees = isinstance(action, Throttle) and number == (progress.throttle_percent or 0)
        if isinstance(action, Measure) or is_known or agrees:
            return
        event = Shadowed(
            variant=self._name,
            what=type(action).__name__,
            reason=action.reason,
            throttle_percent=number if isinstance(action, Throttle) else None,
            downtime_limit_ns=number if isinstance(action, SetDowntimeLimit) else None,
            figures=dict(action.figures) if isinstance(action, Throttle) else {},
        )
        self._recorder.shadowed(event)
        self._ports.tell(f"{(progress.elapsed_ms or 0) / 1000:.1f} s: {self._name} would do: {action.reason}")


def _number_of(action: Action) -> int | None:
    match action:
        case Throttle(percent=percent):
            return percent
        case SetDowntimeLimit(limit_ns=limit_ns):
            return limit_ns
        case _:
            return None
