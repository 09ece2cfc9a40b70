"""The driver as a body of the brain: it senses a VM from outside, and does what the brain decides."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vmferry.bounds import LARGEST
from vmferry.control.asking.guest_memory import GuestMemory
from vmferry.control.asking.progress import NOTHING_SEEN, POLL_INTERVAL_NS, Progress
from vmferry.control.asking.sensors import DirtyRate, DirtyRateSensor
from vmferry.control.finding import RateFinder
from vmferry.control.ports import Ports
from vmferry.control.recorder import Evaluation, Recorder
from vmferry.control.slowing.dirty_rates import DirtyRates
from vmferry.control.slowing.means import Means
from vmferry.control.slowing.slowed import SlowedGuest
from vmferry.control.telling.downtime_limit import DowntimeLimitWatch
from vmferry.control.undoing.settings import Settings
from vmferry.control.vm_record import VmRecord
from vmferry.convergence.actions import Action, Cancel, Measure, SetDowntimeLimit, StartPostcopy, SwitchOver, Throttle
from vmferry.convergence.brain import Convergence, Rules
from vmferry.convergence.limits import MAX_DOWNTIME_MS, Limits
from vmferry.convergence.sensing import Body, Found, RateMeasured, RateSeen, Sensed
from vmferry.convergence.written import Written
from vmferry.errors import CommandError, HostError, MigrationError
from vmferry.units import NS_PER_MS

_BEGINNING_NS, _SOON_NS = 500 * NS_PER_MS, 25 * NS_PER_MS
"""A guest that was surveyed is slowed as soon as it is known what the link carries; so it is looked for often."""


@dataclass(frozen=True)
class Slowing:
    """What it takes to slow a guest from outside."""

    sensor: DirtyRateSensor
    guest: SlowedGuest


def can(settings: Settings, slowing: Slowing | None) -> Body:
    """Return what can be done to a VM; post-copy only where the capability is on, as it cannot be set any more then."""
    slows = Body.THROTTLE | Body.MEASURE if slowing else Body(0)
    if slowing and slowing.guest.means.slows_each_vcpu:
        slows |= Body.PER_VCPU
    fetches = Body.POSTCOPY if settings.capabilities.get("postcopy-ram") else Body(0)
    return Body.DOWNTIME_LIMIT | Body.SWITCH_OVER | slows | fetches


def sense(
    progress: Progress,
    parameters: Mapping[str, Any],
    now_ns: int,
    found: Found | None = None,
    *,
    measuring: bool = False,
) -> Sensed:
    """Return what an answer to `query-migrate` tells, with the migration parameters in force then."""
    bandwidth = progress.memory_bytes_per_s or 0.0
    limit_ms = parameters["downtime-limit"]
    return Sensed(
        now_ns=now_ns,
        sent_bytes=(progress.sent_bytes or 0) + progress.saved_bytes,
        memory_bytes=progress.total_bytes or 0,
        remaining_bytes=progress.remaining_bytes or 0,
        again_bytes=None,
        threshold_bytes=int((_rate(parameters, "avail-switchover-bandwidth") or bandwidth) * limit_ms / 1000),
        bandwidth_bytes_per_s=bandwidth,
        wire_share=progress.wire_share,
        downtime_limit_ns=limit_ms * NS_PER_MS,
        iteration_count=progress.iteration_count or 0,
        dirty_sync_count=progress.dirty_sync_count or 0,
        max_bandwidth_bytes_per_s=_rate(parameters, "max-bandwidth"),
        found=found,
        measuring=measuring,
    )


def _rate(parameters: Mapping[str, Any], name: str) -> int:
    """Return a rate in bytes/s, 0 if the VM tells none; it may tell one of more than 64 bits."""
    rate: int | None = parameters.get(name)
    return min(rate or 0, LARGEST)


class DriverBody:
    """Lets the brain look at one migration with every poll.

    Where the VM decides itself, the brain has no policy, and keeps the limits.
    """

    def __init__(
        self,
        ports: Ports,
        brain: Convergence,
        rules: Rules,
        settings: Settings,
        recorder: Recorder | VmRecord,
        slowing: Slowing | None = None,
    ) -> None:
        self._ports = ports
        self._brain = brain
        self._rules = rules
        self._settings = settings
        self._recorder = recorder
        self._slowing = slowing
        self._finder = RateFinder(slowing.sensor) if slowing else None
        self._downtime_limit = DowntimeLimitWatch(rules.limits.max_downtime_ms, ports.tell)
        self._is_over = False
        """True once the policy is not asked any more."""
        self.throttle_percent = 0
        """The throttle that was decided on last; 0 is none."""
        self._vcpu_percents: tuple[int, ...] | None = None
        """The throttle of each vCPU, if they are slowed one by one."""
        self._dirty_bytes_per_s = 0.0
        """How fast the guest dirtied memory at the last evaluation."""
        self._unthrottled = DirtyRates()
        """The highest rates that were found while nothing slowed the guest."""
        self._last_ns = ports.clock.now_ns()
        self._memory: GuestMemory | None = None
        """What is known of the guest's memory, if it was surveyed."""
        self._soon_until_ns = 0
        """Until when polls follow each other soon."""

    @property
    def elapsed_ns(self) -> int:
        """How long the migration had run at the last poll."""
        return self._brain.elapsed_ns(self._last_ns)

    @property
    def means(self) -> Means | None:
        """What slows the guest; None if nothing of ours does."""
        return self._slowing.guest.means if self._slowing else None

    @property
    def limits(self) -> Limits:
        """What the operator allows now."""
        return self._rules.limits

    def obey(self, rules: Rules) -> None:
        """Have the brain obey other rules from the next look on."""
        if rules.limits.max_downtime_ms != self._rules.limits.max_downtime_ms:
            self._downtime_limit = DowntimeLimitWatch(rules.limits.max_downtime_ms, self._ports.tell)
        self._rules = rules

    def downtime_remark(self) -> str:
        """Return what there is to add to the verdict on the downtime; empty is nothing."""
        return self._downtime_limit.remark()

    def look_before(self, surveyed: Sequence[Written], memory: GuestMemory) -> None:
        """Let the brain look before the migration begins: what was surveyed may show that slowing pays from then on.

        Nothing but a throttle is heeded. Raises MonitorError, and PolicyError if the policy is broken.
        """
        self._soon_until_ns = self._ports.clock.now_ns() + _BEGINNING_NS
        self._last_ns = self._ports.clock.now_ns()
        self._unthrottled = DirtyRates.surveyed(surveyed)
        seen = sense(NOTHING_SEEN, self._ports.monitor.execute("query-migrate-parameters"), self._last_ns)
        self._memory = memory
        sensed = memory.without_untouched(
            replace(seen, memory_bytes=memory.size_bytes, remaining_bytes=memory.size_bytes)
        )
        try:
            for action in self._brain.look(sensed, self._rules):
                if isinstance(action, Throttle):
                    self._obey(action, NOTHING_SEEN, None, None)
        except (HostError, CommandError) as error:
            self._go_on_without(error)

    def complete(self, progress: Progress) -> Progress:
        """Add the throttle that is in force and the newest dirty rate, of which QEMU knows nothing."""
        if not self._slowing:
            return progress
        in_force_percent = self._slowing.guest.in_force_percent
        return replace(
            progress,
            throttle_percent=max(progress.throttle_percent or 0, in_force_percent),
            vcpu_throttle_percents=self._vcpu_percents if in_force_percent else None,
            throttle_takes_time=not in_force_percent or self._slowing.guest.means.takes_time,
            dirty_bytes_per_s=self._dirty_bytes_per_s or progress.dirty_bytes_per_s,
        )

    def observe(self, progress: Progress) -> str | None:
        """Look at one answer to `query-migrate`, do what the brain decides, and return why to cancel, if it wants that.

        Raises MonitorError, and PolicyError if the policy is broken.
        """
        self._last_ns = self._ports.clock.now_ns()
        why = None
        try:
            found, rate = self._find(progress)
            for action in self._decided(progress, found):
                if isinstance(action, Cancel):
                    why = action.reason
                self._obey(action, progress, found, rate)
        except MigrationError:
            pass  # it has ended meanwhile, as the next poll will find
        except (HostError, CommandError) as error:
            self._go_on_without(error)
        return why

    def _go_on_without(self, error: Exception) -> None:
        self.stop()
        self._ports.tell(f"the migration goes on without being steered: {error}")

    def _decided(self, progress: Progress, found: Found | None) -> list[Action]:
        """Let the brain look: the policy as long as it decides, and else the limits alone."""
        parameters = self._ports.monitor.execute("query-migrate-parameters")
        self._downtime_limit.look(int(parameters["downtime-limit"]))
        if not self._steers(progress):
            return self._brain.look_at_limits(self._last_ns, self._rules)
        measuring = bool(self._finder and self._finder.measuring)
        sensed = sense(progress, parameters, self._last_ns, found, measuring=measuring)
        if self._memory:
            sensed = self._memory.without_untouched(sensed, progress.zero_pages or 0)
        syncs_wait = self.means is not None and self.means.delays_syncs
        sensed = replace(sensed, syncs_wait=syncs_wait, vcpu_throttle_percents=self._vcpu_percents)
        return self._brain.look(sensed, self._rules)

    def _steers(self, progress: Progress) -> bool:
        """True while memory is sent and the guest was not let go, as it is when QEMU stops it for the hand-over."""
        let_go = self._is_over or (self._slowing and self._slowing.guest.is_over)
        return progress.status == "active" and not let_go

    def pause(self, wait_ns: Callable[[int], None]) -> None:
        """Wait until the next poll. Where the guest may have to be slowed, the first ones come soon."""
        if not self._slowing:
            wait_ns(POLL_INTERVAL_NS)
        elif self._ports.clock.now_ns() < self._soon_until_ns and not self.throttle_percent:
            wait_ns(_SOON_NS)
        else:
            self._slowing.guest.pause(wait_ns)

    def stop(self) -> bool:
        """Let the guest run, and ask the policy no more. Harmless if it is so.

        Returns whether something has slowed the guest and does no more; otherwise that is for the guard, if anything.
        """
        self._is_over = True
        return bool(self._slowing and self._slowing.guest.release())

    def _find(self, progress: Progress) -> tuple[Found | None, DirtyRate | None]:
        """Return what there is to decide on, and the measurement that has found it, if one has."""
        if not (self._slowing and self._finder and self._steers(progress)):
            return None, None
        self._slowing.guest.means.hold()
        return self._finder.find(progress)

    def _obey(self, action: Action, progress: Progress, found: Found | None, rate: DirtyRate | None) -> None:
        match action:
            case Measure(window_ns=window_ns):
                if self._finder:
                    self._finder.measure(window_ns, progress)
                return
            case Throttle():
                if self._finder and action.period and isinstance(found, RateSeen | RateMeasured):
                    self._finder.evaluated(progress)
                    self._note(found)
                if self._slowing:
                    self._slow(self._slowing, action, progress, rate)
                return
            case SetDowntimeLimit(limit_ns=limit_ns):
                self._set_downtime_limit(limit_ns // NS_PER_MS)
            case SwitchOver():
                most_ms = self._rules.limits.max_downtime_ms
                self._set_downtime_limit(MAX_DOWNTIME_MS if most_ms is None else most_ms)
            case StartPostcopy():
                self._ports.monitor.execute("migrate-start-postcopy")
        self._recorder.acted(action)
        self._ports.tell(action.reason)

    def _set_downtime_limit(self, limit_ms: int) -> None:
        limit_ms = min(limit_ms, MAX_DOWNTIME_MS)
        self._settings.set_parameters({"downtime-limit": limit_ms}, until_gone=True)

    def _note(self, found: RateSeen | RateMeasured) -> None:
        self._dirty_bytes_per_s = found.dirty_bytes_per_s
        if not self.throttle_percent:
            self._unthrottled = self._unthrottled.raised(DirtyRates.found(found))

    def _slow(self, slowing: Slowing, throttle: Throttle, progress: Progress, rate: DirtyRate | None) -> None:
        old_percent, old_percents = self.throttle_percent, self._vcpu_percents
        self.throttle_percent, self._vcpu_percents = throttle.percent, throttle.vcpu_percents
        if throttle.still or throttle.percent != old_percent or throttle.vcpu_percents != old_percents:
            slowing.guest.means.apply(throttle, self._unthrottled)
            source = f" (measured by {rate.mode})" if rate else " (end of iteration)" if throttle.period else ""
            self._ports.tell(f"{(progress.elapsed_ms or 0) / 1000:.1f} s: {throttle.reason}{source}")
        elif throttle.period is None:
            return
        self._recorder.evaluated(Evaluation(throttle, old_percent, rate, slowing.guest.means.takes_time))
