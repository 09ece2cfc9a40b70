"""The engine as a body of the brain: it senses its own migration, and does what the brain decides."""

from dataclasses import replace

from vmferry.convergence.actions import Action, Cancel, Measure, SetDowntimeLimit, SwitchOver, Tell, Throttle
from vmferry.convergence.brain import Convergence, Rules
from vmferry.convergence.ledger import Ledger
from vmferry.convergence.link import LinkWatch
from vmferry.convergence.policies.registry import find_policy
from vmferry.convergence.sensing import Body, Found, Sensed, SyncSeen
from vmferry.convergence.watcher import BackgroundSync, make_watcher
from vmferry.errors import CancelledError
from vmferry.migration.dirty_sync import DirtySync
from vmferry.migration.early_pages import EarlyPages
from vmferry.migration.events import UNBOUNDED_BYTES, Acted, Decided
from vmferry.migration.moved import MovedMemory
from vmferry.migration.outgoing import Outgoing
from vmferry.migration.ports import Guest, TellsVcpus, ThrottlesInSlices, ThrottlesVcpus
from vmferry.migration.ram import RamState
from vmferry.migration.stats import Counters
from vmferry.settings.choices import Rearm
from vmferry.units import NS_PER_S

CAN = Body.THROTTLE | Body.MEASURE | Body.DOWNTIME_LIMIT | Body.SWITCH_OVER
"""What our engine can do with any guest. There is no post-copy."""


def abilities(guest: Guest) -> Body:
    """Return what our engine can do with a guest."""
    return CAN | Body.PER_VCPU if isinstance(guest, ThrottlesVcpus) else CAN


class EngineBody:
    """Lets the brain look at one migration, from its first sync on, which this makes when it is created.

    `moved` and `link` are kept up to date by the loop that sends.
    """

    def __init__(
        self, outgoing: Outgoing, counters: Counters, moved: MovedMemory, link: LinkWatch, ledger: Ledger
    ) -> None:
        self.throttle_percent = 0
        """In force; 0 is none. Where it is not that of all vCPUs, it is the greatest."""
        self.vcpu_throttle_percents: tuple[int, ...] | None = None
        """That of each vCPU, if they are throttled one by one now."""
        self._outgoing = outgoing
        self._counters = counters
        self._moved = moved
        parameters = outgoing.parameters()
        guest = outgoing.guest
        self._throttle_slice_ns = guest.throttle_slice_ns if isinstance(guest, ThrottlesInSlices) else 0
        self._rearms_late = parameters.x_dirty_log_rearm is Rearm.LATE
        mode = parameters.background_sync if outgoing.auto_converge else BackgroundSync.OFF
        early = EarlyPages.of(outgoing.guest.layout.page_count, parameters.x_dirty_log_rearm)
        ram = RamState(outgoing.guest, mode, early)
        counters.zero_pages = outgoing.guest.layout.page_count - ram.remaining_pages
        self.sync = DirtySync(outgoing.guest, outgoing.clock, outgoing.journal, counters, link, ram)
        self._rules_of = (parameters, parameters.rules())
        self._policy_name = parameters.convergence_policy
        self._raised_limit_ns: int | None = None
        """The downtime limit that the brain has set; None is that of the parameters."""
        self.switches_over = False
        """Whether the brain has decided on the hand-over, whatever remains."""
        kind = find_policy(parameters.convergence_policy) if outgoing.auto_converge else None
        self._can = abilities(outgoing.guest)
        start = self._sensed()
        watcher = make_watcher(mode, parameters.watch_times(), start.now_ns)
        writers = parameters.cpu_throttle_writers and kind is not None
        self._brain = Convergence(kind, self._can, watcher, link, ledger, start, throttle_writers=writers)
        self.begin_iteration()

    @property
    def downtime_limit_ns(self) -> int:
        """How long the guest may be stopped."""
        parameters = self._outgoing.parameters()
        return parameters.downtime_limit_ns if self._raised_limit_ns is None else self._raised_limit_ns

    @property
    def switchover_bytes_per_s(self) -> float:
        """How fast the hand-over is taken to move guest memory; 0 if nothing was measured yet."""
        return self._outgoing.parameters().avail_switchover_bandwidth or self._moved.bytes_per_s

    @property
    def threshold_bytes(self) -> int:
        """What may remain when the guest is stopped."""
        if self.switches_over:
            return UNBOUNDED_BYTES
        return int(self.switchover_bytes_per_s * self.downtime_limit_ns / NS_PER_S)

    def begin_iteration(self) -> None:
        """Make the sync that an iteration begins with, and decide on what it shows."""
        newly_dirty_bytes = self.sync.iteration()
        self._moved.begin_iteration()
        self._look(self._synced(newly_dirty_bytes))

    def look(self) -> None:
        """Let the brain look, which may call for a background sync. To be called often. Raises CancelledError."""
        self._look(None)

    def _look(self, found: Found | None) -> None:
        for action in self._brain.look(self._sensed(found), self._rules()):
            self._obey(action)
        if found and (period := self._brain.last_period):
            pages = period.dirty_bytes // self._outgoing.guest.layout.page_size
            self._counters.dirty_pages_rate = pages * NS_PER_S // period.duration_ns

    def _obey(self, action: Action) -> None:
        match action:
            case Throttle():
                self._throttle(action)
                return
            case Measure():
                self._look(self._synced(self.sync.background()))
                return
            case SetDowntimeLimit(limit_ns=limit_ns):
                self._raised_limit_ns = limit_ns
                self._record(action, limit_ns)
            case SwitchOver():
                self.switches_over = True
                self._record(action)
            case Cancel():
                self._record(action)
                raise CancelledError(action.reason)
            case Tell():
                self._record(action)

    def _synced(self, newly_dirty_bytes: int) -> SyncSeen:
        guest, written = self._outgoing.guest, self.sync.ram.written
        page_size = guest.layout.page_size
        pages = guest.vcpu_dirty_pages() if isinstance(guest, TellsVcpus) else None
        vcpu_bytes = tuple(count * page_size for count in pages) if pages else None
        return SyncSeen(newly_dirty_bytes, written.count * page_size if written else None, vcpu_bytes)

    def _throttle(self, action: Throttle) -> None:
        old_percent, old_percents = self.throttle_percent, self.vcpu_throttle_percents
        self.throttle_percent, self.vcpu_throttle_percents = action.percent, action.vcpu_percents
        if action.percent != old_percent or action.vcpu_percents != old_percents:
            self._slow(action)
            self._counters.max_throttle_percent = max(self._counters.max_throttle_percent, action.percent)
        elif action.period is None:
            return
        self._outgoing.record(Decided.of(action, old_percent))

    def _slow(self, action: Throttle) -> None:
        guest = self._outgoing.guest
        if action.vcpu_percents is None:
            guest.set_throttle(action.percent)
        else:
            assert isinstance(guest, ThrottlesVcpus)
            guest.set_vcpu_throttles(action.vcpu_percents)

    def _record(self, action: Action, downtime_limit_ns: int | None = None) -> None:
        what = type(action).__name__
        self._outgoing.record(Acted(what=what, reason=action.reason, downtime_limit_ns=downtime_limit_ns))

    def _sensed(self, found: Found | None = None) -> Sensed:
        return Sensed(
            now_ns=self._outgoing.clock.now_ns(),
            sent_bytes=self._moved.total_bytes,
            memory_bytes=self._outgoing.guest.layout.size_bytes,
            remaining_bytes=self.sync.remaining_bytes,
            again_bytes=self.sync.ram.again_pages * self._outgoing.guest.layout.page_size,
            threshold_bytes=self.threshold_bytes,
            bandwidth_bytes_per_s=self._moved.bytes_per_s,
            wire_share=self._moved.wire_share,
            downtime_limit_ns=self.downtime_limit_ns,
            iteration_count=self._counters.iteration_count,
            dirty_sync_count=self._counters.dirty_sync_count,
            max_bandwidth_bytes_per_s=self._outgoing.parameters().max_bandwidth,
            throttle_slice_ns=self._throttle_slice_ns,
            found=found,
            rearms_late=self._rearms_late,
            vcpu_throttle_percents=self._vcpu_throttles(),
        )

    def _vcpu_throttles(self) -> tuple[int, ...] | None:
        if Body.PER_VCPU not in self._can:
            return None
        return self.vcpu_throttle_percents or (self.throttle_percent,) * self._outgoing.guest.layout.vcpu_count

    def _rules(self) -> Rules:
        """Return the rules of the parameters in force, worked out when these have changed.

        The policy is the one that the migration began with, and keeps its settings when the parameters name another.
        """
        parameters, (known, rules) = self._outgoing.parameters(), self._rules_of
        if parameters is not known:
            changed = parameters.rules()
            if parameters.convergence_policy != self._policy_name:
                changed = replace(changed, policy_settings=rules.policy_settings)
            self._rules_of = (parameters, changed)
        return self._rules_of[1]
