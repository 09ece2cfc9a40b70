"""Real guests for experiments: KVM VMs whose stress payload rewrites memory as the experiment's load says."""

from collections.abc import Sequence
from pathlib import Path

from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.perf.lab import Lab, VmPair
from vmferry.perf.stress_line import is_paced, require_real_loads, stress_line
from vmferry.settings.parameters import MigrationParameters
from vmferry.units import MIB, format_size

_HEADROOM_BYTES = 16 * MIB
"""How much memory the stress payload needs beside what it rewrites."""


def require_real(experiment: Experiment) -> None:
    """Raise UsageError unless a real guest can be as described; the rates of its loads are the models'."""
    rewritten_bytes, memory_bytes = stress_bytes(experiment), experiment.guest.memory_bytes
    if experiment.driven:
        raise UsageError(f"{experiment.driven} is modelled; a real guest is one of our own")
    if rewritten_bytes < MIB:
        raise UsageError(f"{format_size(rewritten_bytes)} to rewrite are too little; give at least 1M")
    if rewritten_bytes + _HEADROOM_BYTES > memory_bytes:
        raise UsageError(
            f"a guest of {format_size(memory_bytes)} cannot rewrite {format_size(rewritten_bytes)}; "
            f"leave {format_size(_HEADROOM_BYTES)} of its memory free"
        )
    experiment.check()


def boot(lab: Lab, experiment: Experiment, journal: Path, options: Sequence[str] = ()) -> VmPair:
    """Boot the guest, and another VM that waits for it.

    `options` are more of `vmferry vm` for the source. Returns when the guest has gone over all its memory twice, or if
    it waits for work, when it has begun.
    """
    guest = experiment.guest
    pair = lab.start_pair(
        ["--memory", f"{guest.memory_bytes}B", "--cpus", str(guest.vcpu_count)],
        ["--append", stress_line(guest), "--journal", str(journal), *options],
    )
    pair.source.wait_for_passes(0 if is_paced(guest) else 2)
    return pair


def policy_options(experiment: Experiment, variant: str, directory: Path) -> list[str]:
    """Return what lets a VM know a variant's own policy, whose file is written into a directory as it was read."""
    own = experiment.own_variant(variant)
    if not own:
        return []
    if own.source:
        (directory / own.source.name.rpartition(":")[0]).write_text(own.source.text)
        return ["--policy", str(directory / own.source.name)]
    return ["--policy", own.policy]


def real_settings(experiment: Experiment, variant: str) -> dict[str, object]:
    """Return the migration parameters of a variant, by their QMP names, for a real guest. Raises UsageError."""
    return {**_as_the_link(experiment), **experiment.settings(variant)}


def real_parameters(experiment: Experiment) -> MigrationParameters:
    """Return all parameters that the variants have in common, for a real guest. Raises UsageError."""
    return MigrationParameters().changed({**_as_the_link(experiment), **experiment.common_settings})


def _as_the_link(experiment: Experiment) -> dict[str, object]:
    """Return what holds a migration on this machine to the experiment's link."""
    return {"max-bandwidth": experiment.link.shared(experiment.link.rate_bytes_per_s)}


def stress_bytes(experiment: Experiment) -> int:
    """Return how much memory all loads have. Raises UsageError for a load that no real guest has."""
    require_real_loads(experiment.guest)
    return sum(load.memory_bytes for load in experiment.guest.loads)
