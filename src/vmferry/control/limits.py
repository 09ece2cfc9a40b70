"""What a migration may cost, what to do when it costs more, and whether it was kept."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum

from vmferry.client.monitor import Monitor
from vmferry.control.downtime_limit import DowntimeLimitWatch
from vmferry.control.drive import Result, Verdict
from vmferry.control.settings import Settings
from vmferry.errors import MigrationError, UsageError
from vmferry.migration.lost_work import LostWork
from vmferry.migration.ports import Clock
from vmferry.units import format_duration

_NS_PER_S = 1_000_000_000
_NS_PER_MS = 1_000_000
MAX_DOWNTIME_MS = 2_000_000
"""The longest downtime limit that a VM accepts: QEMU's MAX_MIGRATE_DOWNTIME."""


class OnLimit(StrEnum):
    """What to do when the deadline or the guest's loss is over its limit."""

    CANCEL = "cancel"
    """The guest stays, unthrottled."""
    SWITCHOVER = "switchover"
    """Allow more downtime, so that the guest moves now."""
    CONTINUE = "continue"
    """Only say so."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that operators set; None is no bound."""

    deadline_ns: int | None = None
    """For the whole migration."""
    max_guest_loss_percent: float | None = None
    """Of the work that the guest could have done since the migration began."""
    max_guest_loss_ns: int | None = None
    """Of vCPU time."""
    max_throttle_percent: int | None = None
    max_downtime_ms: int | None = None
    """Neither the downtime limit nor what `SWITCHOVER` allows exceeds it."""
    on_limit: OnLimit = OnLimit.CANCEL

    def check(self) -> None:
        """Raise UsageError for what no migration can keep."""
        if self.deadline_ns is not None and self.deadline_ns <= 0:
            raise UsageError("a deadline of 0 leaves no time to migrate; give a longer one, such as 10min")

    def applied_to(self, parameters: Mapping[str, object], current: Mapping[str, object]) -> dict[str, object]:
        """Return migration parameters that keep throttle and downtime within these limits.

        `current` are the values of those that are not among `parameters`.
        """
        bounds = {
            "max-cpu-throttle": self.max_throttle_percent,
            "cpu-throttle-initial": self.max_throttle_percent,
            "downtime-limit": self.max_downtime_ms,
        }
        changed = dict(parameters)
        for name, bound in bounds.items():
            value = parameters.get(name, current.get(name))
            if bound is not None and not (isinstance(value, int) and value <= bound):
                changed[name] = bound
        return changed


NO_LIMITS = Limits()


class LimitKeeper:
    """Watches one migration and acts, once, when a limit is hit; `tell` is told."""

    def __init__(
        self,
        limits: Limits,
        monitor: Monitor,
        clock: Clock,
        cancel: Callable[[], object],
        settings: Settings,
        lost: LostWork,
        tell: Callable[[str], None],
        elapsed_ms: int = 0,
    ) -> None:
        """`cancel` calls the migration off. `lost` hears of every event, and `elapsed_ms` is how long it has run."""
        self._limits = limits
        self._clock = clock
        self._cancel = cancel
        self._settings = settings
        self._lost = lost
        self._tell = tell
        self._last_ns = clock.now_ns()
        self._start_ns = self._last_ns - elapsed_ms * _NS_PER_MS
        self._hit = False
        allowed_ms = limits.max_downtime_ms
        self._downtime_limit = None if allowed_ms is None else DowntimeLimitWatch(monitor, allowed_ms, tell)

    def observe(self) -> None:
        """Look with every poll."""
        self._last_ns = self._clock.now_ns()
        if self._downtime_limit:
            self._downtime_limit.look()
        # In its first second a share of the work done says nothing.
        if not self._hit and self._elapsed_ns >= _NS_PER_S:
            self._act_on([verdict for verdict in self._while_running() if verdict.kept is False])

    def verdicts(self, result: Result) -> Iterator[Verdict]:
        """Yield of every limit whether it was kept. The last look may have been long before the end."""
        self._last_ns = max(self._last_ns, self._start_ns + (result.last.elapsed_ms or 0) * _NS_PER_MS)
        moved = self._limits.on_limit is OnLimit.SWITCHOVER
        for verdict in self._while_running():
            yield replace(verdict, obeyed=True) if verdict.kept is False and moved else verdict
        limits = self._limits
        throttle = result.max_throttle_percent
        if limits.max_throttle_percent is not None and throttle is not None:
            yield _verdict("max throttle", throttle, limits.max_throttle_percent, lambda percent: f"{percent:g} %")
        if limits.max_downtime_ms is not None and result.completed:
            yield self._downtime_verdict(result.last.downtime_ms, limits.max_downtime_ms)

    @property
    def _elapsed_ns(self) -> int:
        return self._last_ns - self._start_ns

    def _while_running(self) -> Iterator[Verdict]:
        """Judge the limits that time brings nearer."""
        limits = self._limits
        if limits.deadline_ns is not None:
            yield _verdict("deadline", self._elapsed_ns, limits.deadline_ns, _duration)
        if limits.max_guest_loss_percent is not None:
            bound = limits.max_guest_loss_percent
            lost_percent = self._lost.percent_of(self._lost.total_ns or self._elapsed_ns)
            yield self._loss_verdict(lost_percent, bound, lambda part: f"{part:.3g} %")
        if limits.max_guest_loss_ns is not None:
            bound_ns = limits.max_guest_loss_ns
            yield self._loss_verdict(self._lost.vcpu_ns, bound_ns, lambda ns: f"{_duration(ns)} of vCPUs")

    def _loss_verdict(self, value: float, bound: float, text: Callable[[float], str]) -> Verdict:
        """Where part of the record is missing, it is not known that the limit was kept."""
        verdict = _verdict("max guest loss", value, bound, text)
        if self._lost.is_known or not verdict.kept:
            return verdict
        return replace(verdict, kept=None, text=f"at least {verdict.text}; the beginning was not seen")

    def _downtime_verdict(self, downtime_ms: int | None, allowed_ms: int) -> Verdict:
        remark = self._downtime_limit.remark() if self._downtime_limit else ""
        allowed = _duration(allowed_ms * _NS_PER_MS)
        if downtime_ms is None:
            return Verdict("max downtime", None, f"not told, {allowed} allowed{remark}")
        text = f"{_duration(downtime_ms * _NS_PER_MS)} of {allowed}{remark}"
        kept = downtime_ms <= allowed_ms
        return Verdict("max downtime", kept, text, obeyed=kept)

    def _act_on(self, broken: list[Verdict]) -> None:
        if not broken:
            return
        self._hit = True
        self._tell(f"{broken[0].limit}: {broken[0].text}: {self._limits.on_limit}")
        if self._limits.on_limit is OnLimit.CANCEL:
            self._cancel()
        elif self._limits.on_limit is OnLimit.SWITCHOVER:
            bound_ms = self._limits.max_downtime_ms
            allowed_ms = MAX_DOWNTIME_MS if bound_ms is None else min(bound_ms, MAX_DOWNTIME_MS)
            with suppress(MigrationError):  # it has ended meanwhile, as the next poll will find
                self._settings.set_parameters({"downtime-limit": allowed_ms})


def _verdict(limit: str, value: float, bound: float, text: Callable[[float], str]) -> Verdict:
    kept = value <= bound
    return Verdict(limit, kept, f"{text(value)} of {text(bound)}", obeyed=kept)


def _duration(duration_ns: float) -> str:
    return format_duration(round(duration_ns))
