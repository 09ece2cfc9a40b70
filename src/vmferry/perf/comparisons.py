"""Named comparisons of real guests: experiments that differ in one thing.

They follow those of QEMU's guestperf where they have a meaning here. Each experiment has one variant.
"""

from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from itertools import product

import msgspec

from vmferry.convergence.variants import NO_AUTO_CONVERGE
from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.own_variants import OwnVariant
from vmferry.experiment.parts import GuestSpec, LinkSpec, LoadSpec, RunLimits
from vmferry.perf.labels import label, name_of
from vmferry.units import MIB, NS_PER_S

SEED_VARIANTS = ("original", "background-sync", "background-sync+responsive-throttle")
SEED_PARAMETERS = {"x-dirty-log-rearm": "early"}
"""What the patch series' experiment has besides its variants: each sync arms all pages, as its figures come about."""
LOOPBACK_BYTES_PER_S = 10**9
"""How fast the last pages go, for which the rate limit is lifted."""


def sweeping_guest(
    *,
    vcpu_count: int = 2,
    memory_bytes: int = 1024 * MIB,
    stress_bytes: int = 512 * MIB,
    bandwidth_bytes_per_s: int = 0,
    downtime_limit_ms: int = 500,
    throttle_step_percent: int = 10,
    time_scale: int = 1,
    max_iterations: int = 30,
    max_time_s: int = 300,
) -> Experiment:
    """Return the migration of a guest whose vCPUs together rewrite `stress_bytes` for ever.

    It writes as fast as it can, so no rate is told. A bandwidth of 0 is no limit. Nothing slows it;
    `only` gives it a variant. Raises UsageError.
    """
    load = LoadSpec(pattern="sweep", memory_bytes=stress_bytes)
    experiment = Experiment(
        name="",
        guest=GuestSpec(memory_bytes=memory_bytes, vcpu_count=vcpu_count, loads=(load,)),
        link=LinkSpec(rate_bytes_per_s=LOOPBACK_BYTES_PER_S),
        parameters={
            "max-bandwidth": bandwidth_bytes_per_s,
            "downtime-limit": downtime_limit_ms,
            "cpu-throttle-increment": throttle_step_percent,
        },
        limits=RunLimits(max_iterations=max_iterations, max_time_ns=max_time_s * NS_PER_S),
        time_scale=time_scale,
        variants=(NO_AUTO_CONVERGE.name,),
    )
    experiment.check_parts()
    return experiment.named(name_of(experiment))


def comparisons() -> dict[str, list[Experiment]]:
    """Return the experiments of each comparison by its name."""
    return {
        "seed": list(_seed(rewritten_mib=(45, 900, 1500), rate_mib=60, time_scale=1)),
        "seed-quick": list(_seed(rewritten_mib=(4, 96, 160), rate_mib=64, time_scale=10)),
        "throttle-steps": [_busy(variant, throttle_step_percent=step) for variant, step in _pairs((5, 10, 20))],
        "bandwidths": [_busy(variant, bandwidth_bytes_per_s=rate * MIB) for variant, rate in _pairs((37, 125, 1250))],
        "downtime-limits": [_busy(variant, downtime_limit_ms=limit) for variant, limit in _pairs((100, 300, 1000))],
    }


def find_experiments(pattern: str) -> list[tuple[str, Experiment]]:
    """Return those whose `comparison/label` the glob fits, with their comparisons. Raises UsageError if none does."""
    found = [
        (name, experiment)
        for name, experiments in comparisons().items()
        for experiment in experiments
        if fnmatchcase(f"{name}/{label(experiment)}", pattern)
    ]
    if not found:
        raise UsageError(f"no scenario fits '{pattern}'; `vmferry perf batch --list` shows them all")
    return found


def with_policy(experiments: Iterable[tuple[str, Experiment]], own: OwnVariant) -> list[tuple[str, Experiment]]:
    """Return the guests of (comparison, experiment), each once, with a policy in the place of their variants."""
    guests: list[tuple[str, Experiment]] = []
    for name, experiment in experiments:
        changed = experiment.choosing((), [own]).only(own.name)
        if (name, changed) not in guests:
            guests.append((name, changed))
    return guests


def _seed(rewritten_mib: tuple[int, ...], rate_mib: int, time_scale: int) -> Iterator[Experiment]:
    """The patch series' experiment: light, medium and heavy load by each variant.

    Load and link are scaled so that a pass takes what it took there, and so that a typical guest, throttled to the
    hundredth part, writes less than the link carries, as there.
    """
    for rewritten, variant in product(rewritten_mib, SEED_VARIANTS):
        guest = sweeping_guest(
            memory_bytes=2048 * MIB,
            stress_bytes=rewritten * MIB,
            bandwidth_bytes_per_s=rate_mib * MIB,
            downtime_limit_ms=500 // time_scale,
            time_scale=time_scale,
            max_iterations=200,
            max_time_s=1200,
        )
        yield msgspec.structs.replace(guest.only(variant), parameters=guest.parameters | SEED_PARAMETERS)


def _pairs(values: Sequence[int]) -> Iterator[tuple[str, int]]:
    return product(("original", "background-sync+responsive-throttle"), values)


def _busy(variant: str, bandwidth_bytes_per_s: int = 125 * MIB, **settings: int) -> Experiment:
    return sweeping_guest(bandwidth_bytes_per_s=bandwidth_bytes_per_s, **settings).only(variant)
