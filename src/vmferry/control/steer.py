"""Makes a migration converge from outside: measures, asks the policy, and slows the guest.

The policies and the watcher of `convergence/` are used as they are. What they are told comes from two sources: at the
end of an iteration QEMU's own `dirty-pages-rate`, and inside of one a measurement of ours, which takes the place of
the background sync.
"""

from collections.abc import Callable
from dataclasses import dataclass

from vmferry.control.actuators import Slower
from vmferry.control.drive import Progress
from vmferry.control.sensors import DirtyRate, DirtyRateSensor
from vmferry.convergence.background_sync import IterationView, make_watcher
from vmferry.convergence.link import LinkWatch, decide_without_silence
from vmferry.convergence.policy import Policy, make_policy
from vmferry.convergence.sample import Decision, SyncSample
from vmferry.settings.parameters import MigrationParameters

STEERED = MigrationParameters(
    cpu_throttle_initial=50,
    cpu_throttle_increment=40,
    x_watch_interval=100,
    x_background_sync_interval=100,
)
"""The parameters of driving from outside where they differ from QEMU's, chosen by measurement (docs/qemu.md)."""

_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1_000_000


@dataclass(frozen=True)
class Evaluation:
    """One sample, what was decided on it, and where the sample came from."""

    kind: str
    """`iteration`: QEMU's own figure; `background`: a measurement of ours."""
    progress: Progress
    now_ns: int
    sample: SyncSample
    decision: Decision
    found: DirtyRate | None = None
    """What the measurement found; None if it was none."""


class Steering:
    """Steers one migration; `observe` is called with every poll."""

    def __init__(
        self,
        sensor: DirtyRateSensor,
        throttle: Slower,
        link: LinkWatch,
        parameters: MigrationParameters,
        evaluated: Callable[[Evaluation], None],
        start_ns: int,
    ) -> None:
        self._sensor = sensor
        self._throttle = throttle
        self._link = link
        self._settings = parameters.throttle_settings()
        self._evaluation_period_ns = parameters.x_evaluation_period * _NS_PER_MS
        self._policy: Policy = make_policy(parameters.convergence_policy)
        self._watcher = make_watcher(parameters.background_sync, parameters.watch_times(), start_ns)
        self._evaluated = evaluated
        self.throttle_percent = 0
        """In force; 0 is none."""
        self.dirty_bytes_per_s = 0.0
        """At the last evaluation."""
        self._unthrottled_bytes_per_s = 0
        self._seen = (1, 0.0)
        """QEMU's dirty-sync-count and dirty rate at the last evaluation."""
        self._period_start = (start_ns, 0, 0)
        """When the last accepted evaluation was, what had been sent by then, and how long the link had stood still."""
        self._window_start = (start_ns, 0, 0)
        """The same of the measurement that is under way."""

    def observe(self, progress: Progress, now_ns: int) -> None:
        """Look at one answer to `query-migrate`; measure, decide and throttle as is due."""
        if progress.status != "active":
            return
        if self._sensor.measuring:
            self._fetch(progress, now_ns)
        elif self._own_rate_is_new(progress) and now_ns - self._period_start[0] > self._evaluation_period_ns:
            self._sensor.calibrate(progress.dirty_bytes_per_s or 0)
            self._evaluate("iteration", progress, now_ns, self._period_start, progress.dirty_bytes_per_s or 0)
        elif self._watcher.due(self._view(progress, now_ns)):
            self._window_start = (now_ns, progress.sent_bytes or 0, self._link.total_still_ns)
            self._sensor.start()

    def _view(self, progress: Progress, now_ns: int) -> IterationView:
        return IterationView(
            now_ns=now_ns,
            iteration_count=progress.iteration_count or 0,
            dirty_sync_count=progress.dirty_sync_count or 0,
            last_evaluation_ns=self._period_start[0],
            throttle_percent=self.throttle_percent,
            maximum_throttle_percent=self._settings.maximum_percent,
        )

    def _own_rate_is_new(self, progress: Progress) -> bool:
        """True if an iteration has ended since the last evaluation, and told QEMU a new dirty rate."""
        sync_count, bytes_per_s = self._seen
        return (progress.dirty_sync_count or 0) > sync_count and progress.dirty_bytes_per_s != bytes_per_s

    def _fetch(self, progress: Progress, now_ns: int) -> None:
        rate = self._sensor.fetch()
        if rate is None:
            return
        # A measurement sees a page once; several short iterations see it each time.
        own_bytes_per_s = progress.dirty_bytes_per_s if self._own_rate_is_new(progress) else None
        dirty_bytes_per_s = max(rate.dirty_bytes_per_s, own_bytes_per_s or 0)
        self._evaluate("background", progress, now_ns, self._window_start, dirty_bytes_per_s, rate)

    def _evaluate(
        self,
        kind: str,
        progress: Progress,
        now_ns: int,
        start: tuple[int, int, int],
        dirty_bytes_per_s: float,
        found: DirtyRate | None = None,
    ) -> None:
        """Decide on the period from `start`, as `_period_start` is, until now."""
        self.dirty_bytes_per_s = dirty_bytes_per_s
        if not self.throttle_percent:
            self._unthrottled_bytes_per_s = max(self._unthrottled_bytes_per_s, round(dirty_bytes_per_s))
        sent_so_far = progress.sent_bytes or 0
        period_ns, sent_bytes = now_ns - start[0], sent_so_far - start[1]
        dirty_bytes = round(dirty_bytes_per_s * period_ns / _NS_PER_S)
        sample = SyncSample(period_ns, dirty_bytes, sent_bytes, self.throttle_percent)
        still_ns = self._link.still_since(start[2], period_ns)
        decision = decide_without_silence(self._policy, sample, still_ns, self._settings)
        if decision.throttle_percent != self.throttle_percent:
            self._throttle.apply(decision.throttle_percent, self._unthrottled_bytes_per_s)
            self.throttle_percent = decision.throttle_percent
        self._period_start = (now_ns, sent_so_far, self._link.total_still_ns)
        self._seen = (progress.dirty_sync_count or 0, progress.dirty_bytes_per_s or 0)
        self._evaluated(Evaluation(kind, progress, now_ns, sample, decision, found))
