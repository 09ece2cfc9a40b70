"""A migration as reports tell of it, and which ones are repeats of each other."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from vmferry.migration.outcome import Outcome


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One migration, of which no more may be known than what it came to."""

    label: str
    """What it is compared by: runs of the same label are repeats of each other."""
    outcome: Outcome
    name: str = ""
    """Tells it from its repeats, such as `seed 2`; empty if nobody has named it."""
    source: str = ""
    """The file that tells of it."""
    troubles: tuple[str, ...] = ()
    """What makes it doubtful, beside its error."""
    lost_is_measured: bool = False
    """True if what the guest lost was counted at the guest, so that it is not only what the throttle took."""

    @property
    def variant(self) -> str:
        """What made it converge."""
        return self.label

    @property
    def remarks(self) -> tuple[str, ...]:
        """What went wrong or makes it doubtful."""
        error = self.outcome.error
        return (error, *self.troubles) if error and error not in self.troubles else self.troubles


_R = TypeVar("_R", bound=Run)


def by_label(runs: Iterable[_R]) -> dict[str, list[_R]]:
    """Return the repeats of each label, in the order of appearance."""
    repeats: dict[str, list[_R]] = {}
    for run in runs:
        repeats.setdefault(run.label, []).append(run)
    return repeats


def median_run(repeats: Sequence[_R]) -> _R:
    """Return the one of median total time, of those that completed if any did; it stands for the others."""
    completed = [run for run in repeats if run.outcome.completed] or repeats
    return sorted(completed, key=lambda run: run.outcome.total_time_ms or 0)[(len(completed) - 1) // 2]


def variants_of(runs: Iterable[Run]) -> dict[str, str]:
    """Return the variant of each label."""
    return {run.label: run.variant for run in runs}
