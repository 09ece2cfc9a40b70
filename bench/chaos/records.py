"""Raw records of runs, one JSON object per line, and the tables that are made of them."""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from bench.chaos import driven
from bench.chaos.check import Observation, Outcome, outcome, violations
from vmferry.errors import UsageError


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One run. `body` says of what kind of VM; with `seed` and `number` it can be made again."""

    body: str
    seed: int
    number: int
    seconds: float
    """On the wall's clock; of simulated runs, virtual time."""
    settings: dict[str, object]
    outcome: Outcome
    violations: list[str]
    observation: Observation

    @property
    def fault_name(self) -> str:
        """What broke."""
        return self.observation.fault.name

    @property
    def has_fired(self) -> bool:
        """True if the fault happened."""
        return self.observation.has_fired


class Counted(Protocol):
    """What a tally counts of a run: a `Record`, or one of other faults."""

    @property
    def body(self) -> str:
        """Of what kind of VM."""
        ...

    @property
    def seed(self) -> int:
        """Of what was drawn."""
        ...

    @property
    def number(self) -> int:
        """With the seed, it makes the run again."""
        ...

    @property
    def fault_name(self) -> str:
        """What broke."""
        ...

    @property
    def has_fired(self) -> bool:
        """True if the fault happened."""
        ...

    @property
    def outcome(self) -> Outcome:
        """Where the guest is."""
        ...

    @property
    def violations(self) -> list[str]:
        """What should not be."""
        ...


def judged(body: str, seed: int, number: int, seconds: float, settings: dict[str, object], seen: Observation) -> Record:
    """Return the record of what was seen, with the judgement on it."""
    return Record(
        body=body,
        seed=seed,
        number=number,
        seconds=round(seconds, 3),
        settings=settings,
        outcome=outcome(seen),
        violations=violations(seen),
        observation=seen,
    )


class _Kind(msgspec.Struct):
    """What tells the records of different bodies from each other."""

    body: str


def read_records(paths: Iterable[Path]) -> Iterator[Counted]:
    """Yield the records of these files. Raises UsageError for what is none."""
    for path in paths:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield _decoded(line)
                except msgspec.DecodeError as error:
                    raise UsageError(f"line {number} of '{path}' is no record of a run: {error}") from error


def _decoded(line: bytes) -> Counted:
    if msgspec.json.decode(line, type=_Kind).body == driven.BODY:
        return msgspec.json.decode(line, type=driven.DrivenRecord)
    return msgspec.json.decode(line, type=Record)


_ALL = "all"
_RUNS, _FIRED = "runs", "fault happened"


class Tally:
    """Counts runs: a Markdown table for each body, a row for each kind of fault, a column for each outcome."""

    def __init__(self) -> None:
        self.violation_count = 0
        self._bodies: dict[str, Counter[tuple[str, str]]] = {}

    def add(self, record: Counted) -> None:
        """Count one run."""
        self.violation_count += len(record.violations)
        self._bodies.setdefault(record.body, Counter()).update(_cells(record))

    def __str__(self) -> str:
        return "\n\n".join(f"{body}\n\n{_body_table(cells)}" for body, cells in self._bodies.items())


def _cells(record: Counted) -> Iterator[tuple[str, str]]:
    """Yield the cells that a run is counted in."""
    for row in (record.fault_name, _ALL):
        yield row, _RUNS
        if record.has_fired:
            yield row, _FIRED
        yield row, record.outcome


def _body_table(cells: Counter[tuple[str, str]]) -> str:
    columns = [_RUNS, _FIRED, *(outcome for outcome in Outcome if cells[_ALL, outcome] or outcome is Outcome.BROKEN)]
    rows = [*sorted({row for row, _ in cells} - {_ALL}), _ALL]
    lines = [["fault", *columns], ["---"] * (1 + len(columns))]
    lines += [[row, *(str(cells[row, column]) for column in columns)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
