"""The policies that turn samples into throttle decisions, and the variants compared everywhere.

A policy is one class with `decide`; `register_policy` makes it selectable by the
`convergence-policy` parameter. A variant is a name for a set of parameters.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vmferry.convergence.background_sync import BackgroundSync
from vmferry.convergence.criteria import DirtyRateCriterion, DirtyRatioCriterion
from vmferry.convergence.sample import Decision, SyncSample, ThrottleSettings
from vmferry.convergence.throttle import next_throttle_percent
from vmferry.errors import UsageError
from vmferry.units import format_size


class Policy(Protocol):
    """Decides the throttle of one migration; made afresh for each."""

    def decide(self, sample: SyncSample, settings: ThrottleSettings) -> Decision:
        """Return the throttle to apply after this sample, with the reason."""
        ...


class AutoConverge:
    """QEMU's auto-converge, and with `settings.responsive` the seed's second criterion."""

    def __init__(self) -> None:
        self._rate = DirtyRateCriterion()
        self._ratio = DirtyRatioCriterion()

    def decide(self, sample: SyncSample, settings: ThrottleSettings) -> Decision:
        """Step up when the dirty rate was high twice, or once while the dirty ratio is high."""
        threshold = settings.trigger_threshold_percent
        ratio_high = settings.responsive and self._ratio.observe(sample, threshold)
        rate_high = self._rate.observe(sample, threshold)
        rate_twice = self._rate.take_action()
        act = rate_twice or (rate_high and ratio_high)
        throttle = next_throttle_percent(sample, settings) if act else sample.throttle_percent
        cause = self._cause(rate_high, rate_twice, ratio_high)
        return Decision(
            throttle_percent=throttle,
            reason=f"{_comparison(sample, threshold, rate_high)}{cause}: {_change(sample, throttle)}",
            dirty_rate_high=rate_high,
            dirty_ratio_high=ratio_high,
            dirty_ratio_percent=self._ratio.ratio_percent,
            previous_dirty_ratio_percent=self._ratio.previous_ratio_percent,
        )

    def _cause(self, rate_high: bool, rate_twice: bool, ratio_high: bool) -> str:
        if not rate_high:
            return ""
        if rate_twice:
            return ", second time"
        if ratio_high:
            ratio = self._ratio
            return f", ratio {ratio.ratio_percent} % after {ratio.previous_ratio_percent} %, second time"
        return ", first time"


def _comparison(sample: SyncSample, threshold_percent: int, high: bool) -> str:
    relation = ">" if high else "<="
    return (
        f"dirty {format_size(sample.dirty_bytes)} {relation} {threshold_percent} % of "
        f"{format_size(sample.sent_bytes)} sent"
    )


def _change(sample: SyncSample, throttle_percent: int) -> str:
    if throttle_percent == sample.throttle_percent:
        return f"throttle stays {throttle_percent} %"
    return f"{sample.throttle_percent} -> {throttle_percent} %"


_POLICIES: dict[str, Callable[[], Policy]] = {"auto-converge": AutoConverge}


def register_policy(name: str, factory: Callable[[], Policy]) -> None:
    """Make a policy selectable by `name`. Raises UsageError if the name is taken."""
    if name in _POLICIES:
        raise UsageError(f"a convergence policy named '{name}' is registered already")
    _POLICIES[name] = factory


def make_policy(name: str) -> Policy:
    """Return a fresh policy. Raises UsageError for an unknown name."""
    if name not in _POLICIES:
        raise UsageError(f"no convergence policy '{name}'; there are: {', '.join(sorted(_POLICIES))}")
    return _POLICIES[name]()


@dataclass(frozen=True)
class Variant:
    """A named set of convergence parameters; all of them have auto-converge on."""

    name: str
    background_sync: BackgroundSync
    responsive_throttle: bool

    @property
    def settings(self) -> dict[str, object]:
        """The parameters that make it up, by their QMP names; auto-converge must be on as well."""
        return {"background-sync": self.background_sync.value, "cpu-responsive-throttle": self.responsive_throttle}


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("original", BackgroundSync.OFF, responsive_throttle=False),
        Variant("background-sync", BackgroundSync.PRESERVE, responsive_throttle=False),
        Variant("background-sync+responsive-throttle", BackgroundSync.PRESERVE, responsive_throttle=True),
        Variant("periodic-sync", BackgroundSync.MERGE, responsive_throttle=False),
    )
}
"""The variants of the seed and of QEMU >= 9.2, by name."""


def find_variant(name: str) -> Variant:
    """Return the variant of that name. Raises UsageError for an unknown one."""
    if name not in VARIANTS:
        raise UsageError(f"no variant '{name}'; there are: {', '.join(VARIANTS)}")
    return VARIANTS[name]
