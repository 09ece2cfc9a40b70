"""Raw samples as JSON lines: one measured value each, with what is needed to judge it."""

import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click
import msgspec


class Sample(msgspec.Struct, frozen=True):
    """One value, in the unit that is named, measured with these parameters."""

    name: str
    value: float
    unit: str
    parameters: dict[str, object]
    commit: str
    cpu: str
    kernel: str
    time_s: float


class Samples:
    """Writes samples to a file as they come, and summarises them at the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._commit = _commit()
        self._cpu = _cpu()
        self.samples: list[Sample] = []

    def add(self, name: str, value: float, unit: str, **parameters: object) -> None:
        """Record one value."""
        sample = Sample(name, value, unit, parameters, self._commit, self._cpu, platform.release(), time.time())
        self.samples.append(sample)
        self._file.write(msgspec.json.encode(sample) + b"\n")
        self._file.flush()

    def median(self, name: str, **parameters: object) -> float:
        """Return the median of the values of that name whose parameters include these."""
        return statistics.median(self.values(name, **parameters))

    def values(self, name: str, **parameters: object) -> list[float]:
        """Return the values of that name whose parameters include these."""
        return [
            sample.value
            for sample in self.samples
            if sample.name == name and parameters.items() <= sample.parameters.items()
        ]

    def summary(self) -> Iterable[str]:
        """Yield a line for each group of samples with the same name and parameters: median, minimum, maximum, count."""
        groups = defaultdict(list)
        for sample in self.samples:
            title = " ".join([sample.name, *(f"{name}={value}" for name, value in sample.parameters.items())])
            groups[title, sample.unit].append(sample.value)
        for (title, unit), values in groups.items():
            yield (
                f"{title}: median {statistics.median(values):.4g} {unit} "
                f"(min {min(values):.4g}, max {max(values):.4g}, n {len(values)})"
            )


@contextmanager
def recording(output: Path | None) -> Iterator[Samples]:
    """Write samples to a file or stdout, and the summary to stderr."""
    with output.open("ab") if output else sys.stdout.buffer as file:
        samples = Samples(file)
        yield samples
    for line in samples.summary():
        click.echo(line, err=True)


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
