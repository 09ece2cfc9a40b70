"""Measures many experiments, several times each, and keeps what is done when it is interrupted."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

from vmferry.bounds import clean_text
from vmferry.experiment.experiment import Experiment
from vmferry.perf.labels import load_text
from vmferry.perf.measure import Job, PerfRun, measure
from vmferry.perf.results import ResultSet

_UNEVEN_LOAD = 0.2


def missing_jobs(experiments: Sequence[tuple[str, Experiment]], repeats: int, results: ResultSet) -> list[Job]:
    """Return what is still to be measured: all experiments once, then all a second time, and so on.

    Repeats that are far apart in time show whether the machine has changed meanwhile.
    """
    return [
        job
        for number in range(repeats)
        for job in (Job(comparison, experiment, number) for comparison, experiment in experiments)
        if not results.has(job)
    ]


def run_jobs(jobs: Sequence[Job], results: ResultSet, tell: Callable[[Job], None]) -> list[PerfRun]:
    """Measure every job, `tell` being called before each; a failed one is recorded and the next begins."""
    runs = []
    for job in jobs:
        tell(job)
        run = measure(job, results.journal_path(job))
        results.add(run)
        runs.append(run)
    return runs


def troubles(runs: Sequence[PerfRun]) -> dict[str, list[str]]:
    """Return what went wrong with runs or makes them doubtful, by their jobs' labels; the others are left out.

    That are their flags, their errors, and guests that were, before they were migrated, unlike those of the other
    runs with the same load.
    """
    uneven = _uneven_loads(runs)
    told = {run.job.label: [*run.flags, *uneven.get(run.job.label, ()), *filter(None, [run.error])] for run in runs}
    return {label: [clean_text(reason) for reason in reasons] for label, reasons in told.items() if reasons}


def _uneven_loads(runs: Sequence[PerfRun]) -> dict[str, list[str]]:
    measured = [run for run in runs if run.pages_per_s_before]
    speeds: dict[str, list[float]] = defaultdict(list)
    for run in measured:
        speeds[load_text(run.job.experiment)].append(run.pages_per_s_before)
    uneven: dict[str, list[str]] = {}
    for run in measured:
        share = run.pages_per_s_before / statistics.median(speeds[load_text(run.job.experiment)])
        if abs(share - 1) > _UNEVEN_LOAD:
            uneven[run.job.label] = [f"the guest ran at {share:.0%} of the usual speed before"]
    return uneven
