"""What is told to scripts of measured runs; the names of the figures are those of `Outcome`, as everywhere."""

from typing import Any

import msgspec

from vmferry.migration.outcome import Outcome
from vmferry.perf.measure import PerfRun
from vmferry.units import MS_PER_S


class WrittenSoFar(msgspec.Struct, frozen=True, kw_only=True):
    """How many pages each vCPU had written at a moment of the migration."""

    elapsed_ms: int
    written_pages: list[int]


class MeasuredRun(Outcome, frozen=True, kw_only=True):
    """One measured migration of a real guest; its status is `error` if it could not even be run."""

    label: str
    """All that tells this run from others."""
    comparison: str
    scenario: str
    variant: str
    number: int
    """Which repeat it is, counted from 0."""
    flags: list[str]
    """The things that were not as they should have been."""
    pages_per_s_before: float | None
    """How fast the guest wrote before the migration; null if that was not measured."""
    pages_per_s_after: float | None
    waiting_percent: float
    """For how much of the time before the migration its vCPUs had to wait for a processor of the host."""
    samples: list[WrittenSoFar]
    began_ms: int
    """When it began, in milliseconds since the Unix epoch."""
    measured_on: dict[str, str]
    """The host: its processors, its kernel, and the release of vmferry."""
    experiment: dict[str, Any]
    """The guest, its link and its limits, as a scenario's file has them."""


def measured_run(run: PerfRun) -> MeasuredRun:
    """Return all that is told of a run."""
    job = run.job
    return MeasuredRun(
        **msgspec.structs.asdict(run.outcome),
        label=job.label,
        comparison=job.comparison,
        scenario=job.experiment.name,
        variant=job.variant,
        number=job.number,
        flags=run.flags,
        pages_per_s_before=run.pages_per_s_before or None,
        pages_per_s_after=run.pages_per_s_after or None,
        waiting_percent=run.waiting_percent,
        samples=[
            WrittenSoFar(elapsed_ms=round(sample.time_s * MS_PER_S), written_pages=sample.written_pages)
            for sample in run.samples
        ],
        began_ms=round(run.started_at_s * MS_PER_S),
        measured_on=run.host,
        experiment=msgspec.to_builtins(job.experiment),
    )
