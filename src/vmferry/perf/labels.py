"""What tells experiments on real guests from each other: in the names of files, and in the headings of tables."""

import hashlib
import re
from collections.abc import Iterator

from vmferry.experiment.experiment import Experiment
from vmferry.perf.real_guest import real_parameters, stress_bytes
from vmferry.settings.parameters import MigrationParameters
from vmferry.units import format_rate, format_size

_MAX_NAME_CHARACTERS = 80


def label(experiment: Experiment) -> str:
    """Return the variant and the name of an experiment that has one variant, fit for the name of a file."""
    [variant] = experiment.variants
    return f"{_file_name(variant)}_{_file_name(experiment.name)}"


def name_of(experiment: Experiment) -> str:
    """Return a name made of the guest and of what is unusual in its migration, the variant apart."""
    guest, parameters = experiment.guest, real_parameters(experiment)
    parts = [
        f"{guest.vcpu_count}cpu",
        f"{_size(stress_bytes(experiment))}-of-{_size(guest.memory_bytes)}",
        f"{_size(parameters.max_bandwidth)}ps" if parameters.max_bandwidth else "unlimited",
        f"{parameters.downtime_limit}ms",
    ]
    return "_".join([*parts, *(short for short, _ in _unusual(experiment, parameters))])


def load_text(experiment: Experiment) -> str:
    """Return in words what runs that are compared have in common: all but the variant."""
    guest, parameters = experiment.guest, real_parameters(experiment)
    link = format_rate(parameters.max_bandwidth) if parameters.max_bandwidth else "not limited"
    rewritten, memory = format_size(stress_bytes(experiment)), format_size(guest.memory_bytes)
    words = [
        f"{guest.vcpu_count} vCPUs rewrite {rewritten} of {memory}",
        f"link {link}",
        f"downtime limit {parameters.downtime_limit} ms",
    ]
    return ", ".join([*words, *(told for _, told in _unusual(experiment, parameters))])


def _unusual(experiment: Experiment, parameters: MigrationParameters) -> Iterator[tuple[str, str]]:
    """Yield what few experiments have, in short and in words."""
    step_percent, scale = parameters.cpu_throttle_increment, experiment.time_scale
    if step_percent != MigrationParameters().cpu_throttle_increment:
        yield f"step{step_percent}", f"throttle step {step_percent} %"
    if scale != 1:
        yield f"time-1to{scale}", f"times 1:{scale}"


def _file_name(text: str) -> str:
    """Return a text without what may not be in a file's name; a digest tells it from others that would be the same."""
    kept = re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII)[:_MAX_NAME_CHARACTERS]
    return kept if kept == text else f"{kept.strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _size(size_bytes: int) -> str:
    return f"{size_bytes >> 20}MiB" if size_bytes % (1 << 20) == 0 else f"{size_bytes}B"
