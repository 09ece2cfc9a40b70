"""Follows a migration that somebody else began: records it, shows it, and touches nothing unless it is asked to."""

from collections.abc import Callable
from dataclasses import replace

from vmferry.control.arriving.arrival import arrival_of
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.drive import IN_POSTCOPY, cancel_migration
from vmferry.control.following import Cancellation, Follower, follow
from vmferry.control.ports import Ports
from vmferry.control.recorder import Recorder
from vmferry.control.shadow import ShadowBody
from vmferry.control.telling.phases import Phases
from vmferry.control.vm_record import VmRecord, open_recorder, start_recording
from vmferry.control.wishes import KeepLimits, Wish, Wishes
from vmferry.convergence.actions import Cancel, Tell
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.convergence.variants import Variant
from vmferry.errors import PolicyError
from vmferry.migration.journal import TeeJournal
from vmferry.migration.lost_work import LostWork
from vmferry.migration.ports import Journal

_NOBODY_KEEPS = "the migration is only looked on, so nobody keeps limits; have it steered, and give them with that"


def look_on(
    ports: Ports,
    journal: Journal,
    watch: Callable[[Progress], None],
    *,
    shadow: Variant | None = None,
    limits: Limits = NO_LIMITS,
    wishes: Wishes | None = None,
) -> Result:
    """Follow the migration that runs to its end; `watch` sees every poll.

    What `shadow` would have decided, within `limits`, is recorded and told beside it. The monitor is only asked, unless
    one of `wishes` is to cancel the migration. Raises UsageError if there is no such policy, PolicyError if it cannot
    begin, MonitorError, and CancelledError if `ports.cancel` is set.
    """
    monitor, clock = ports.monitor, ports.clock
    driven = DrivenVm.ask(monitor)
    lost = LostWork(clock.now_ns)
    recorder = open_recorder(monitor, driven, TeeJournal([journal, lost]), clock.now_ns, attached=True)
    start_recording(recorder, monitor, driven, {})
    body = ShadowBody(ports, driven, shadow, limits, recorder, lost) if shadow else None
    onlooker = _Onlooker(ports, recorder, watch, body, wishes or Wishes())
    result = follow(monitor, clock, ports.cancel, onlooker, onlooker.cancellation)
    recorder.end(result)
    return replace(result, arrival=arrival_of(result, driven, driven.capabilities, monitor.manager, None))


class _Onlooker(Follower):
    """Shows and records every poll, and lets the shadow look, as long as its policy is not broken."""

    def __init__(
        self,
        ports: Ports,
        recorder: Recorder | VmRecord,
        watch: Callable[[Progress], None],
        shadow: ShadowBody | None,
        wishes: Wishes,
    ) -> None:
        self.cancellation = Cancellation(ports.clock)
        self._monitor = ports.monitor
        self._tell = ports.tell
        self._phases = Phases(ports.tell)
        self._recorder = recorder
        self._watch = watch
        self._shadow = shadow
        self._wishes = wishes

    def observe(self, progress: Progress) -> Progress:
        """Look at a poll."""
        self._phases.observe(progress)
        self._recorder.poll(progress)
        self._watch(progress)
        if self._shadow:
            try:
                self._shadow.observe(progress)
            except PolicyError as error:
                self._tell(f"looking on without a shadow: {error}")
                self._shadow = None
        for wish in self._wishes.take():
            self._heed(wish)
        return progress

    def _heed(self, wish: Wish) -> None:
        match wish.what:
            case KeepLimits():
                wish.refuse(_NOBODY_KEEPS)
                return
            case Cancel() if not cancel_migration(self._monitor):
                wish.refuse(IN_POSTCOPY)
                return
            case Cancel():
                self.cancellation.begin()
                self._recorder.acted(wish.what)
            case Tell():
                self._recorder.acted(wish.what)
        self._tell(wish.what.reason)
        wish.grant()
