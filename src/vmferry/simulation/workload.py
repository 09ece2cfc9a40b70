"""What a modelled guest does: which of its vCPUs write, in which order loads take turns, and at what pace.

A load without a pace writes in all the CPU time that it gets. A paced load is open-loop: work comes whether the guest
keeps up or not, evenly or all at once every so often, and what is not done yet is done later, as fast as the CPU time
allows. So slowing a paced guest dirties no less memory until it cannot catch up any more.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vmferry.memory.bitmap import Bitmap
from vmferry.simulation.patterns import Pattern

MAX_PAGES = 1 << 62
"""Behind every page."""


@dataclass(frozen=True)
class Demand:
    """How much work comes: CPU time for each ns that passes. With `every_ns` it comes all at once, that often."""

    cpu_per_ns: float
    every_ns: int = 0


class Work(Protocol):
    """Something that a vCPU does."""

    def write(self, passed_ns: int, cpu_ns: int, bitmap: Bitmap) -> None:
        """Mark what is written while some time passes, of which the vCPU gets `cpu_ns` to run."""
        ...

    def areas(self) -> list[tuple[int, int]]:
        """Return the pages that are ever written, as (first page, page count)."""
        ...


class Load:
    """A pattern, and how much of it is asked for; None is as much as the CPU time allows."""

    def __init__(self, pattern: Pattern, demand: Demand | None = None) -> None:
        self.pattern = pattern
        self.demand = demand
        self._passed_ns = 0
        self._backlog_ns = 0.0
        """The CPU time that the work takes which has come and is not done."""

    def write(self, passed_ns: int, cpu_ns: int, bitmap: Bitmap) -> None:
        if self.demand is None:
            self.pattern.write(cpu_ns, bitmap)
            return
        for part_ns, part_cpu_ns in self._parts(passed_ns, cpu_ns, self.demand):
            self._passed_ns += part_ns
            if not self.demand.every_ns:
                self._backlog_ns += part_ns * self.demand.cpu_per_ns
            done_ns = min(part_cpu_ns, int(self._backlog_ns))
            self.pattern.write(done_ns, bitmap)
            self._backlog_ns -= done_ns
            if self.demand.every_ns and self._passed_ns % self.demand.every_ns == 0:
                self._backlog_ns += self.demand.every_ns * self.demand.cpu_per_ns

    def areas(self) -> list[tuple[int, int]]:
        return self.pattern.areas()

    def _parts(self, passed_ns: int, cpu_ns: int, demand: Demand) -> Iterator[tuple[int, int]]:
        """Yield (time, CPU time) between the moments at which work comes all at once."""
        first_ns = demand.every_ns - self._passed_ns % demand.every_ns if demand.every_ns else passed_ns
        for start_ns, stop_ns in pairwise([0, *range(first_ns, passed_ns, demand.every_ns or 1), passed_ns]):
            yield stop_ns - start_ns, cpu_ns * stop_ns // passed_ns - cpu_ns * start_ns // passed_ns


class Beside:
    """Several loads at the same time, each of which gets the same CPU time."""

    def __init__(self, loads: Sequence[Load]) -> None:
        self._loads = loads

    def write(self, passed_ns: int, cpu_ns: int, bitmap: Bitmap) -> None:
        for load in self._loads:
            load.write(passed_ns, cpu_ns, bitmap)

    def areas(self) -> list[tuple[int, int]]:
        return [area for load in self._loads for area in load.areas()]


@dataclass(frozen=True)
class Turn:
    """A load for a while, in CPU time."""

    duration_ns: int
    load: Work


class Turns:
    """One load after the other, round and round."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self._current = 0
        self._left_ns = turns[0].duration_ns
        self._round_ns = sum(turn.duration_ns for turn in turns)

    def write(self, passed_ns: int, cpu_ns: int, bitmap: Bitmap) -> None:
        """Let the loads write that `cpu_ns` reaches into; whole rounds are written at once, however many."""
        if len(self._turns) == 1:
            self._turns[0].load.write(passed_ns, cpu_ns, bitmap)
            return
        if not cpu_ns:
            self._turns[self._current].load.write(passed_ns, 0, bitmap)
            return
        rounds, rest_ns = divmod(cpu_ns, self._round_ns)
        if rounds:
            for turn in self._turns:
                whole_ns = rounds * turn.duration_ns
                turn.load.write(passed_ns * whole_ns // cpu_ns, whole_ns, bitmap)
        self._write_parts(passed_ns * rest_ns // cpu_ns, rest_ns, bitmap)

    def _write_parts(self, passed_ns: int, cpu_ns: int, bitmap: Bitmap) -> None:
        left_ns = cpu_ns
        while left_ns > 0:
            part_ns = min(left_ns, self._left_ns)
            self._turns[self._current].load.write(passed_ns * part_ns // cpu_ns, part_ns, bitmap)
            left_ns -= part_ns
            self._left_ns -= part_ns
            if not self._left_ns:
                self._current = (self._current + 1) % len(self._turns)
                self._left_ns = self._turns[self._current].duration_ns

    def areas(self) -> list[tuple[int, int]]:
        return [area for turn in self._turns for area in turn.load.areas()]


@dataclass(frozen=True)
class Writer:
    """What some vCPUs do, in the mean of their CPU time."""

    vcpus: range
    turns: Turns


class Workload:
    """What all vCPUs do at the same time.

    Time passes for all of them at once, but what a writer has written is worked out only when somebody looks at its
    memory: so it costs little to look at a few pages of a large guest, as a migration does with every batch.
    """

    def __init__(self, writers: Sequence[Writer]) -> None:
        self._writers = writers
        self._passed_ns = 0
        self._cpu_ns = np.zeros(1 + max((max(writer.vcpus) for writer in writers), default=0), np.int64)
        self._seen_ns = [(0, 0)] * len(writers)
        """The time that had passed when each writer was worked out last, and the CPU time that it had got."""
        spans = np.array([_span(writer.turns.areas()) for writer in writers], np.int64).reshape(-1, 2)
        self._first_page, self._end_page = spans[:, 0].copy(), spans[:, 1].copy()

    @classmethod
    def together(cls, pattern: Pattern, vcpu_count: int = 1) -> "Workload":
        """Return the workload of vCPUs that write one pattern together, as fast as they can."""
        return cls([Writer(range(vcpu_count), Turns([Turn(1, Load(pattern))]))])

    def let_pass(self, passed_ns: int, cpu_ns: int | Sequence[int] | NDArray[np.int64]) -> None:
        """Let some time pass, of which each vCPU gets its `cpu_ns` to run, or all of them the same."""
        self._passed_ns += passed_ns
        self._cpu_ns += cpu_ns if isinstance(cpu_ns, int) else cpu_ns[: len(self._cpu_ns)]

    def write(self, bitmap: Bitmap, first_page: int = 0, end_page: int = MAX_PAGES) -> None:
        """Mark what is written by now, at least between these pages."""
        for number in self._writers_of(first_page, end_page):
            self._write_by(number, bitmap)

    def write_apart(self, bitmaps: Sequence[Bitmap], first_page: int = 0, end_page: int = MAX_PAGES) -> None:
        """Do the same, and mark what each vCPU writes in a bitmap of its own; what several do together in the first."""
        for number in self._writers_of(first_page, end_page):
            self._write_by(number, bitmaps[self._writers[number].vcpus[0]])

    def areas(self) -> list[tuple[int, int]]:
        """Return the pages that are ever written, as (first page, page count)."""
        return [area for writer in self._writers for area in writer.turns.areas()]

    def _writers_of(self, first_page: int, end_page: int) -> list[int]:
        touched = (self._first_page < end_page) & (self._end_page > first_page)
        numbers: list[int] = np.flatnonzero(touched).tolist()
        return numbers

    def _write_by(self, number: int, bitmap: Bitmap) -> None:
        writer, (passed_ns, cpu_ns) = self._writers[number], self._seen_ns[number]
        if passed_ns < self._passed_ns:
            now_ns = int(self._cpu_ns[writer.vcpus.start : writer.vcpus.stop].sum()) // len(writer.vcpus)
            self._seen_ns[number] = self._passed_ns, now_ns
            writer.turns.write(self._passed_ns - passed_ns, now_ns - cpu_ns, bitmap)


def _span(areas: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the first page of the areas, and the one behind the last."""
    return min((first for first, _ in areas), default=0), max((first + count for first, count in areas), default=0)
