"""Real guests for experiments: KVM VMs whose stress payload rewrites memory as the experiment's load says."""

from collections.abc import Sequence
from pathlib import Path

from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.perf.lab import Lab, VmProcess
from vmferry.units import format_size

MIB = 1 << 20
_HEADROOM_BYTES = 16 * MIB
"""How much memory the stress payload needs beside what it rewrites."""


def require_real(experiment: Experiment) -> None:
    """Raise UsageError unless a real guest can be as described: it sweeps over part of its memory, as fast as it can.

    The rate of the load and the link are the models'; a real guest is held to `max-bandwidth`.
    """
    stress_bytes, memory_bytes = _stress_bytes(experiment), experiment.guest.memory_bytes
    if stress_bytes < MIB:
        raise UsageError(f"{format_size(stress_bytes)} to rewrite are too little; give at least 1M")
    if stress_bytes + _HEADROOM_BYTES > memory_bytes:
        raise UsageError(
            f"a guest of {format_size(memory_bytes)} cannot rewrite {format_size(stress_bytes)}; "
            f"leave {format_size(_HEADROOM_BYTES)} of its memory free"
        )
    experiment.check()


def boot(
    lab: Lab, experiment: Experiment, journal: Path, options: Sequence[str] = ()
) -> tuple[VmProcess, VmProcess, str]:
    """Boot the guest, and another VM that waits for it; return both and the destination's uri.

    `options` are more of `vmferry vm` for the source. Returns when the guest has written all its memory twice.
    """
    guest = experiment.guest
    source, destination, uri = lab.start_pair(
        ["--memory", f"{guest.memory_bytes}B", "--cpus", str(guest.vcpu_count)],
        ["--append", f"ramsize={stress_mib(experiment)}", "--journal", str(journal), *options],
    )
    source.wait_for_passes(2)
    return source, destination, uri


def stress_mib(experiment: Experiment) -> int:
    """Return how much is rewritten, in the unit of the payload's command line."""
    return _stress_bytes(experiment) // MIB


def _stress_bytes(experiment: Experiment) -> int:
    match experiment.guest.loads:
        case [load] if load.pattern == "sweep":
            return load.memory_bytes
    raise UsageError("a real guest has one load, which sweeps; give pattern = 'sweep'")
