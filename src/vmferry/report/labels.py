"""What recorded migrations are compared by: whose they are, what made them converge, and in what else they differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from vmferry.bounds import clean_text
from vmferry.report.look import without_settings
from vmferry.report.runs import by_label
from vmferry.report.series import RunSeries
from vmferry.units import UNKNOWN, format_size, told

_MOST = 3
"""So many differences are named at most."""


def labelled(runs: Iterable[RunSeries]) -> list[RunSeries]:
    """Return the runs with the names of VM and policy as their labels, in their order.

    Those of one VM and policy that differ in their guest's size or in a parameter have that in their labels, too: they
    are no repeats of each other.
    """
    plain = [replace(run, label=_plain(run)) for run in runs]
    differing = {label: _differing(repeats) for label, repeats in by_label(plain).items()}
    return [replace(run, label=_with(run, differing[run.label])) for run in plain]


def _plain(run: RunSeries) -> str:
    policy = without_settings(run.variant)
    return f"{run.vm_name}: {policy}" if run.vm_name else policy


def title_of(runs: Sequence[RunSeries]) -> str:
    """Return the title of a report."""
    if len(runs) == 1:
        return f"Migration: {runs[0].label}"
    names = {run.vm_name for run in runs}
    return f"Migrations of {names.pop()}" if len(names) == 1 and None not in names else "Migrations"


def _differing(runs: Sequence[RunSeries]) -> list[str]:
    """Return the names of what is known of all of them and not the same."""
    facts = [_facts(run) for run in runs]
    common = [name for name in facts[0] if all(name in each for each in facts)]
    return [name for name in common if len({each[name] for each in facts}) > 1][:_MOST]


def _facts(run: RunSeries) -> Mapping[str, str]:
    return {
        "memory": told(run.outcome.memory_bytes, format_size),
        "vCPUs": told(run.outcome.vcpu_count, str, UNKNOWN),
        **{name: str(value) for name, value in run.started.parameters.items()},
    }


def _with(run: RunSeries, names: Sequence[str]) -> str:
    facts = _facts(run)
    words = ", ".join(f"{name} {facts[name]}" for name in names)
    return clean_text(f"{run.label} ({words})" if words else run.label)
