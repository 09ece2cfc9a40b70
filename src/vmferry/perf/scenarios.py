"""What `vmferry perf` measures, as its options and the lines of its results say it, and named comparisons.

An Experiment is made of it for whatever runs it.

The comparisons follow those of QEMU's guestperf where they have a meaning here. A label is computed from the values,
so it cannot lie about them.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from itertools import product

import msgspec

from vmferry.bounds import Natural, Positive
from vmferry.convergence.variants import find_variant
from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.parts import GuestSpec, LinkSpec, LoadSpec, RunLimits
from vmferry.perf.real_guest import MIB, require_real
from vmferry.settings.policy_parameters import policy_label
from vmferry.simulation.own_variants import OwnVariant
from vmferry.units import format_rate, format_size

SEED_VARIANTS = ("original", "background-sync", "background-sync+responsive-throttle")
_MAX_NAME_CHARACTERS = 80
_NS_PER_S = 1_000_000_000
LOOPBACK_BYTES_PER_S = 10**9
"""How fast the last pages go, for which the rate limit is lifted."""


class PerfScenario(msgspec.Struct, frozen=True, kw_only=True, rename="kebab"):
    """One guest and how it is migrated, by a variant that is known or by a policy; else auto-converge is off.

    These are the options of `vmferry perf run`, and what a line of results keeps.
    """

    vcpu_count: Positive = 2
    memory_bytes: Positive = 1024 * MIB
    stress_bytes: Natural = 512 * MIB
    """How much memory all vCPUs together rewrite for ever."""
    bandwidth_bytes_per_s: Natural = 0
    """What the link carries; 0 is no limit."""
    downtime_limit_ms: Natural = 500
    variant: str | None = None
    policy: dict[str, bool | int | str] = {}
    """The migration parameters that name it and set it; empty where a variant says it all."""
    policy_digest: str | None = None
    """A digest of the policy's source."""
    throttle_step_percent: Natural = 10
    time_scale: Natural = 1
    """The algorithm's constants of time are divided by this."""
    max_iterations: Natural = 30
    max_time_s: Natural = 300

    def __post_init__(self) -> None:
        if self.variant is not None:
            find_variant(self.variant)

    @property
    def converged_by(self) -> str | None:
        """The variant, or what tells the policy from others; None where nothing slows the guest."""
        return policy_label(self.policy, self.policy_digest) if self.policy else self.variant

    @property
    def label(self) -> str:
        """All that tells this scenario from others, fit for a file name."""
        parts = [
            _file_name(self.converged_by or "no-auto-converge"),
            f"{self.vcpu_count}cpu",
            f"{_size(self.stress_bytes)}-of-{_size(self.memory_bytes)}",
            f"{_size(self.bandwidth_bytes_per_s)}ps" if self.bandwidth_bytes_per_s else "unlimited",
            f"{self.downtime_limit_ms}ms",
        ]
        if self.throttle_step_percent != 10:
            parts.append(f"step{self.throttle_step_percent}")
        if self.time_scale != 1:
            parts.append(f"time-1to{self.time_scale}")
        return "_".join(parts)

    @property
    def load_text(self) -> str:
        """What runs that are compared have in common, in words: all but the variant."""
        link = format_rate(self.bandwidth_bytes_per_s) if self.bandwidth_bytes_per_s else "not limited"
        words = [
            f"{self.vcpu_count} vCPUs rewrite {format_size(self.stress_bytes)} of {format_size(self.memory_bytes)}",
            f"link {link}",
            f"downtime limit {self.downtime_limit_ms} ms",
        ]
        if self.throttle_step_percent != 10:
            words.append(f"throttle step {self.throttle_step_percent} %")
        if self.time_scale != 1:
            words.append(f"times 1:{self.time_scale}")
        return ", ".join(words)

    def experiment(self) -> Experiment:
        """Return it as all bodies have it; the guest writes as fast as it can, so the rate is not told."""
        load = LoadSpec(pattern="sweep", memory_bytes=self.stress_bytes)
        return Experiment(
            name=self.label,
            guest=GuestSpec(memory_bytes=self.memory_bytes, vcpu_count=self.vcpu_count, loads=(load,)),
            link=LinkSpec(rate_bytes_per_s=LOOPBACK_BYTES_PER_S),
            parameters={
                "max-bandwidth": self.bandwidth_bytes_per_s,
                "downtime-limit": self.downtime_limit_ms,
                "cpu-throttle-increment": self.throttle_step_percent,
                **self.policy,
            },
            limits=RunLimits(max_iterations=self.max_iterations, max_time_ns=self.max_time_s * _NS_PER_S),
            time_scale=self.time_scale,
        )

    def settings(self) -> dict[str, object]:
        """Return the migration parameters that are given, by their QMP names."""
        experiment = self.experiment()
        return experiment.settings(self.variant) if self.variant else experiment.common_settings

    def check(self) -> None:
        """Raise UsageError if the guest cannot be as described."""
        require_real(self.experiment())


def comparisons() -> dict[str, list[PerfScenario]]:
    """Return the scenarios of each comparison by its name."""
    return {
        "seed": list(_seed(rewritten_mib=(45, 900, 1500), rate_mib=60, time_scale=1)),
        "seed-quick": list(_seed(rewritten_mib=(4, 96, 160), rate_mib=64, time_scale=10)),
        "throttle-steps": [_busy(variant=name, throttle_step_percent=step) for name, step in _pairs((5, 10, 20))],
        "bandwidths": [_busy(variant=name, bandwidth_bytes_per_s=rate * MIB) for name, rate in _pairs((37, 125, 1250))],
        "downtime-limits": [_busy(variant=name, downtime_limit_ms=limit) for name, limit in _pairs((100, 300, 1000))],
    }


def find_scenarios(pattern: str) -> list[tuple[str, PerfScenario]]:
    """Return the (comparison, scenario) whose `comparison/label` the glob fits. Raises UsageError if there is none."""
    found = [
        (name, scenario)
        for name, scenarios in comparisons().items()
        for scenario in scenarios
        if fnmatchcase(f"{name}/{scenario.label}", pattern)
    ]
    if not found:
        raise UsageError(f"no scenario fits '{pattern}'; `vmferry perf batch --list` shows them all")
    return found


def with_policy(scenarios: Iterable[tuple[str, PerfScenario]], own: OwnVariant) -> list[tuple[str, PerfScenario]]:
    """Return the guests of (comparison, scenario), each once, with a policy in the place of their variants."""
    changed = {"variant": None, "policy": own.parameters(), "policy_digest": own.digest}
    guests: list[tuple[str, PerfScenario]] = []
    for name, scenario in scenarios:
        if (guest := (name, msgspec.structs.replace(scenario, **changed))) not in guests:
            guests.append(guest)
    return guests


def _seed(rewritten_mib: tuple[int, ...], rate_mib: int, time_scale: int) -> Iterator[PerfScenario]:
    """The patch series' experiment: light, medium and heavy load by each variant.

    Load and link are scaled so that a pass takes what it took there, and so that a typical guest, throttled to the
    hundredth part, writes less than the link carries, as there.
    """
    for rewritten, variant in product(rewritten_mib, SEED_VARIANTS):
        yield PerfScenario(
            memory_bytes=2048 * MIB,
            stress_bytes=rewritten * MIB,
            bandwidth_bytes_per_s=rate_mib * MIB,
            downtime_limit_ms=500 // time_scale,
            variant=variant,
            time_scale=time_scale,
            max_iterations=200,
            max_time_s=1200,
        )


def _pairs(values: tuple[int, ...]) -> Iterator[tuple[str, int]]:
    return product(("original", "background-sync+responsive-throttle"), values)


def _busy(*, bandwidth_bytes_per_s: int = 125 * MIB, **settings: object) -> PerfScenario:
    return msgspec.convert(
        {"bandwidth-bytes-per-s": bandwidth_bytes_per_s}
        | {name.replace("_", "-"): value for name, value in settings.items()},
        PerfScenario,
    )


def _file_name(text: str) -> str:
    """Return a text without what may not be in a file's name; a digest tells it from others that would be the same."""
    kept = re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII)[:_MAX_NAME_CHARACTERS]
    return kept if kept == text else f"{kept.strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20}MiB" if size_bytes % (1 << 20) == 0 else f"{size_bytes}B"
