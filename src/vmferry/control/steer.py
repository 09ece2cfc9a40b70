"""The driver as a body of the brain: it measures from outside, and slows the guest as the brain decides.

What is sensed comes from two sources: at the end of an iteration QEMU's own `dirty-pages-rate`, and inside of one a
measurement of ours, which takes the place of the background sync.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.control.actuators import Slower
from vmferry.control.drive import Progress
from vmferry.control.sensors import DirtyRate, DirtyRateSensor
from vmferry.convergence.actions import Action, Measure, Throttle
from vmferry.convergence.brain import Convergence
from vmferry.convergence.ledger import Ledger
from vmferry.convergence.link import LinkWatch
from vmferry.convergence.policies.registry import find_policy
from vmferry.convergence.sensing import Body, Found, RateMeasured, RateSeen, Sensed
from vmferry.convergence.watcher import make_watcher
from vmferry.settings.parameters import MigrationParameters

STEERED = MigrationParameters(
    cpu_throttle_initial=50,
    cpu_throttle_increment=40,
    x_watch_interval=100,
    x_background_sync_interval=100,
)
"""The parameters of driving from outside where they differ from QEMU's, chosen by measurement (docs/qemu.md)."""

CAN = Body.THROTTLE | Body.MEASURE

_NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Evaluation:
    """One decision on the throttle, and where what it was decided on came from."""

    kind: str
    """`iteration`: QEMU's own figure; `background`: a measurement of ours."""
    progress: Progress
    now_ns: int
    throttle: Throttle
    old_percent: int
    found: DirtyRate | None = None
    """What the measurement found; None if it was none."""


class Steering:
    """Steers one migration; `observe` is called with every poll."""

    def __init__(
        self,
        sensor: DirtyRateSensor,
        throttle: Slower,
        link: LinkWatch,
        ledger: Ledger,
        parameters: MigrationParameters,
        evaluated: Callable[[Evaluation], None],
        start_ns: int,
    ) -> None:
        self._sensor = sensor
        self._throttle = throttle
        self._parameters = parameters
        self._rules = parameters.rules()
        kind = find_policy(parameters.convergence_policy)
        watcher = make_watcher(parameters.background_sync, parameters.watch_times(), start_ns)
        self._brain = Convergence(kind, CAN, watcher, link, ledger, self._sensed(Progress.from_qmp({}), start_ns))
        self._evaluated = evaluated
        self.throttle_percent = 0
        """In force; 0 is none."""
        self.dirty_bytes_per_s = 0.0
        """At the last evaluation."""
        self._unthrottled_bytes_per_s = 0
        self._seen = (1, 0.0)
        """QEMU's dirty-sync-count and dirty rate at the last evaluation."""

    def observe(self, progress: Progress, now_ns: int) -> None:
        """Look at one answer to `query-migrate`; measure, decide and throttle as is due."""
        if progress.status != "active":
            return
        found, rate = self._find(progress)
        if self._sensor.measuring:
            return
        for action in self._brain.look(self._sensed(progress, now_ns, found), self._rules):
            self._obey(action, progress, now_ns, found, rate)

    def _find(self, progress: Progress) -> tuple[Found | None, DirtyRate | None]:
        """Return what there is to decide on: the measurement that is over, or else QEMU's own rate, if that is new."""
        own_bytes_per_s = progress.dirty_bytes_per_s or 0.0
        is_new = self._own_rate_is_new(progress)
        if self._sensor.measuring:
            rate = self._sensor.fetch()
            if rate is None:
                return None, None
            # A measurement sees a page once; several short iterations see it each time.
            return RateMeasured(max(rate.dirty_bytes_per_s, own_bytes_per_s if is_new else 0)), rate
        if is_new:
            self._sensor.calibrate(own_bytes_per_s)
            return RateSeen(own_bytes_per_s), None
        return None, None

    def _own_rate_is_new(self, progress: Progress) -> bool:
        """True if an iteration has ended since the last evaluation, and told QEMU a new dirty rate."""
        sync_count, bytes_per_s = self._seen
        return (progress.dirty_sync_count or 0) > sync_count and progress.dirty_bytes_per_s != bytes_per_s

    def _obey(
        self, action: Action, progress: Progress, now_ns: int, found: Found | None, rate: DirtyRate | None
    ) -> None:
        match action:
            case Measure():
                self._sensor.start()
            case Throttle():
                if action.period and isinstance(found, RateSeen | RateMeasured):
                    self._note(found.dirty_bytes_per_s, progress)
                self._apply(action, progress, now_ns, rate)

    def _note(self, dirty_bytes_per_s: float, progress: Progress) -> None:
        self.dirty_bytes_per_s = dirty_bytes_per_s
        if not self.throttle_percent:
            self._unthrottled_bytes_per_s = max(self._unthrottled_bytes_per_s, round(dirty_bytes_per_s))
        self._seen = (progress.dirty_sync_count or 0, progress.dirty_bytes_per_s or 0)

    def _apply(self, action: Throttle, progress: Progress, now_ns: int, rate: DirtyRate | None) -> None:
        old_percent = self.throttle_percent
        if action.percent != old_percent:
            self._throttle.apply(action.percent, self._unthrottled_bytes_per_s)
            self.throttle_percent = action.percent
        elif action.period is None:
            return
        kind = "background" if rate else "iteration"
        self._evaluated(Evaluation(kind, progress, now_ns, action, old_percent, rate))

    def _sensed(self, progress: Progress, now_ns: int, found: Found | None = None) -> Sensed:
        bandwidth = progress.bandwidth_bytes_per_s or 0.0
        return Sensed(
            now_ns=now_ns,
            sent_bytes=progress.sent_bytes or 0,
            memory_bytes=progress.total_bytes or 0,
            remaining_bytes=progress.remaining_bytes or 0,
            again_bytes=None,
            threshold_bytes=int(bandwidth * self._parameters.downtime_limit / 1000),
            bandwidth_bytes_per_s=bandwidth,
            downtime_limit_ns=self._parameters.downtime_limit * _NS_PER_MS,
            iteration_count=progress.iteration_count or 0,
            dirty_sync_count=progress.dirty_sync_count or 0,
            found=found,
        )
