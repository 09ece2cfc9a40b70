"""Simulates many cases, as many at a time as there are processors, and keeps each result as soon as it is there."""

import csv
import hashlib
import io
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vmferry import __version__
from vmferry.convergence.policies.registry import find_policy
from vmferry.errors import UsageError, VmferryError
from vmferry.experiment.experiment import Experiment
from vmferry.migration.outcome import Outcome
from vmferry.simulation.run import SimulatedRun, SimulationResult
from vmferry.study.code import own_code
from vmferry.study.executors import local_pool
from vmferry.study.record_file import Format, RecordFile
from vmferry.study.simulate import simulate

if TYPE_CHECKING:
    import pandas

_IN_FLIGHT = 256
"""How many cases are submitted at a time: enough for a cluster, and few beside a million that would fill the memory."""


class Case(msgspec.Struct, frozen=True):
    """One simulation; `settings` is what the sweep changed in the scenario."""

    scenario: Experiment
    settings: dict[str, str]
    variant: str
    seed: int

    @property
    def key(self) -> str:
        """A digest of all that the result depends on: the same case has the same key in every run.

        It depends on the code too: of the engine, the models and the policy, which may be anybody's. It does not on
        which other cases the scenario asks for.
        """
        scenario = self.scenario.only(self.variant)
        policy = find_policy(scenario.migration_parameters(self.variant).convergence_policy)
        parts = (__version__, own_code(), policy.digest, scenario, self.variant, self.seed)
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]


class SweptRun(SimulatedRun, frozen=True, kw_only=True):
    """What became of a case, for scripts; its status is `error` if it could not be simulated, and `error` says why."""

    key: str
    """A digest of all that the result depends on."""
    settings: dict[str, str]
    """What the sweep changed in the scenario."""


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a case; without `result` it could not be simulated, and `error` says why."""

    key: str
    scenario: str
    settings: dict[str, str]
    variant: str
    seed: int
    result: SimulationResult | None = None
    error: str = ""

    @property
    def group(self) -> tuple[str, str, str]:
        """Experiment, settings and variant: results that have these in common differ in their seed only."""
        settings = ", ".join(f"{key}={value}" for key, value in self.settings.items())
        return self.scenario, settings, self.variant

    @property
    def row(self) -> dict[str, object]:
        """All of it by name, as a table has it: each setting is a column, and what is not known is None."""
        case = {"scenario": self.scenario, **self.settings, "variant": self.variant, "seed": self.seed}
        figures = {name: getattr(self.result, name, None) for name in _FIGURES}
        return {**case, **figures, "error": self.error or figures["error"]}

    @property
    def told(self) -> SweptRun:
        """All of it for scripts, the figures named as everywhere."""
        figures = self.result or Outcome(status="error", error=self.error)
        return SweptRun(
            **{name: getattr(figures, name) for name in Outcome.__struct_fields__},
            key=self.key,
            scenario=self.scenario,
            settings=self.settings,
            variant=self.variant,
            seed=self.seed,
        )


_FORMAT = Format(msgspec.json.Decoder(CaseResult).decode)
_FIGURES = [name for name in Outcome.__struct_fields__ if name != "downtime_parts_ms"]


class Results(list[CaseResult]):
    """What came out of a sweep."""

    def to_csv(self) -> str:
        """Return a table with a line for each case. What is not known is an empty cell."""
        rows = [case.row for case in self]
        text = io.StringIO()
        writer = csv.DictWriter(text, dict.fromkeys(itertools.chain.from_iterable(rows)), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def to_frame(self) -> "pandas.DataFrame":
        """Return the same table as a pandas DataFrame. Raises UsageError if pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise UsageError("a frame needs pandas; install it with: pip install 'vmferry[frames]'") from error
        return pandas.DataFrame([case.row for case in self]).convert_dtypes()


def make_cases(
    scenarios: Sequence[Experiment],
    grid: Mapping[str, Sequence[str]] | None = None,
    variants: Sequence[str] = (),
    seeds: int | None = None,
) -> list[Case]:
    """Return the cases of every scenario, with every combination of the grid's values, by variant and seed.

    Without variants and seeds they are those of the scenario. Raises UsageError if a combination is not possible.
    """
    cases = []
    grid = grid or {}
    for scenario in (scenario.choosing(variants) for scenario in scenarios):
        for values in itertools.product(*grid.values()):
            settings = dict(zip(grid, values, strict=True))
            changed = scenario.with_settings(settings)
            for variant in changed.variants:
                cases += [Case(changed, settings, variant, seed) for seed in range(seeds or changed.seeds)]
    return cases


def run_case(case: Case) -> CaseResult:
    """Simulate one case; whatever goes wrong is told in the result."""
    try:
        result = msgspec.structs.replace(simulate(case.scenario, case.variant, case.seed), entries=[])
    except VmferryError as error:
        return _failed(case, str(error))
    except Exception as error:  # a defect of ours in one case must not cost the others
        return _failed(case, f"internal error: {error!r}")
    return _failed(case, result.error) if result.policy_broken else _done(case, result=result)


class Sweep:
    """The cases of a sweep and the file of their results, in which those that are done already are found."""

    def __init__(self, cases: Iterable[Case], output: Path | str) -> None:
        self.cases = {case.key: case for case in cases}
        self._file = RecordFile(Path(output), _FORMAT)
        done = {record.key for record in self._file.records if record.result}
        self.missing = [case for key, case in self.cases.items() if key not in done]

    @property
    def results(self) -> Results:
        """The results of these cases so far, in their order; of those that were tried again, the last."""
        latest = {record.key: record for record in self._file.records}
        # Another sweep may have come to the same case by other settings, or anyone have written something else.
        return Results(
            _done(case, result=latest[key].result, error=latest[key].error)
            for key, case in self.cases.items()
            if key in latest
        )

    def run(
        self,
        executor: Callable[[], AbstractContextManager[Executor]] = local_pool,
        tell: Callable[[], None] = lambda: None,
    ) -> Results:
        """Simulate what is missing, and return all results; `tell` is called after each.

        A case whose process died is recorded as failed.
        """
        pending = deque(self.missing)
        while pending:
            with executor() as pool:
                for result in _results(pool, pending):
                    self._file.add(result)
                    tell()
        return self.results


def _results(pool: Executor, pending: deque[Case]) -> Iterator[CaseResult]:
    """Yield results as they come, until nothing is pending or the pool is broken by a process that died."""
    running: dict[Future[CaseResult], Case] = {}
    while True:
        _submit(pool, pending, running)
        if not running:
            return
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            case = running.pop(future)
            try:
                yield future.result()
            except BrokenExecutor as error:
                yield _failed(case, f"what simulated it is gone: {error}")
            except Exception as error:  # such as that of a cluster whose workers have no vmferry
                yield _failed(case, f"it could not be simulated there: {error!r}")


def _submit(pool: Executor, pending: deque[Case], running: dict[Future[CaseResult], Case]) -> None:
    """Keep the pool busy; a broken one takes nothing more."""
    with suppress(BrokenExecutor):
        while pending and len(running) < _IN_FLIGHT:
            future = pool.submit(run_case, pending[0])
            running[future] = pending.popleft()


def _failed(case: Case, error: str) -> CaseResult:
    return _done(case, error=error)


def _done(case: Case, result: SimulationResult | None = None, error: str = "") -> CaseResult:
    return CaseResult(
        key=case.key,
        scenario=case.scenario.name,
        settings=case.settings,
        variant=case.scenario.label(case.variant),
        seed=case.seed,
        result=result,
        error=error,
    )
