"""How true forecasts are: live migrations, each with a forecast before it: `python -m bench.truth --help`.

A run's line is appended to the file as soon as it is over, and runs that the file has are skipped, so a campaign that
was stopped goes on where it was.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import getloadavg
from pathlib import Path
from time import process_time

import click
import msgspec
import numpy as np

from bench.peers import Load, Peer, cool_down, ours, qemus, warm_memory
from vmferry.cancel import CancelToken
from vmferry.clock import MonotonicClock
from vmferry.control.asking.progress import Progress
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.convergence.variants import find_variant
from vmferry.perf.lab import Lab
from vmferry.study.forecast import StrategyForecast, forecast
from vmferry.study.measured_survey import survey_vm
from vmferry.study.survey import Survey
from vmferry.study.told import work_out
from vmferry.units import MIB

PLANNED, RESPONSIVE, OWN = "planned", "background-sync+responsive-throttle", "original"
LONGEST_S = 90
"""What takes longer is called off, and has not converged."""
IDLE, SLOW = "idle", "slow writer"
KINDS = {
    IDLE: Load(512, 1, 1),
    "a tenth": Load(384, 1, 40),
    "a quarter, 2 vCPUs": Load(320, 2, 80),
    "two thirds": Load(384, 1, 256),
    "two thirds, 2 vCPUs": Load(384, 2, 240),
    "500 of 768 MiB": Load(768, 1, 500),
    "600 of 768 MiB, 2 vCPUs": Load(768, 2, 600),
    "3 vCPUs": Load(256, 3, 150),
    "random": Load(384, 1, 120, "pattern=uniform"),
    "hot spot": Load(384, 1, 200, "pattern=hot-spot working-set=20"),
    "moving": Load(384, 1, 240, "pattern=moving working-set=40 rounds=20"),
    SLOW: Load(512, 1, 160, "mode=xor"),
}
"""None of them was used to fit anything; those that were are in bench/results/truth-fitted.jsonl."""
RATES_MIB_PER_S = (100, 50, 200, 400)
LIMITS_MS = (300, 500, 150)


@dataclass(frozen=True)
class Trial:
    """What one run is about."""

    kind: str
    peer: Peer
    strategy: str
    mib_per_s: int
    downtime_limit_ms: int

    @property
    def name(self) -> str:
        """What tells it from others."""
        link = f"{self.mib_per_s} MiB/s, {self.downtime_limit_ms} ms"
        return f"{self.kind}; {self.peer.name}; {self.strategy}; {link}"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file: what was foretold, and what came."""

    name: str
    kind: str
    body: str
    foretold: StrategyForecast
    survey: Survey
    """What was measured before, from which the forecast can be made again."""
    completed: bool
    total_time_ms: int | None
    downtime_ms: int | None
    load: float
    """How much else this machine did: processes that want to run, over the last minute."""

    @property
    def is_right(self) -> bool | None:
        """Whether `will` or `will not` was right; None if it was told that it may."""
        if 0 < self.foretold.chance < 1:
            return None
        ends = self.foretold.total_time_ms is not None and self.foretold.total_time_ms.p10 <= LONGEST_S * 1000
        return (self.foretold.chance == 1 and ends) == self.completed

    @property
    def is_within(self) -> bool | None:
        """Whether the total time was within its interval; None if there is nothing to compare."""
        told = self.foretold.total_time_ms
        if told is None or not self.completed or self.total_time_ms is None:
            return None
        return told.p10 <= self.total_time_ms <= told.p90

    @property
    def downtime_error_ms(self) -> float | None:
        """How far the downtime was off its median."""
        told = self.foretold.downtime_ms
        return None if told is None or self.downtime_ms is None else abs(told.p50 - self.downtime_ms)


@click.group()
def bench() -> None:
    """Forecasts against what comes of them."""


@bench.command()
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=Path("bench/results/truth.jsonl"),
              show_default=True, help="Append each run to this file; what is in it is not run again.")  # fmt: skip
@click.option("--qemu10", help="Path of a QEMU 10, see bench/get-qemu10.sh.")
@click.option("--most", default=1000, show_default=True, help="Stop after so many runs.")
def run(output: Path, qemu10: str | None, most: int) -> None:
    """Make the runs that are still to be made. The machine should do nothing else."""
    done = {each.name for each in _read(output)} if output.exists() else set()
    waiting = [trial for trial in _trials(qemu10) if trial.name not in done][:most]
    for number, trial in enumerate(waiting, 1):
        made = _run(trial)
        with output.open("ab") as file:
            file.write(msgspec.json.encode(made) + b"\n")
        click.echo(f"{number} of {len(waiting)}: {_line(made)}", err=True)
        cool_down()


@bench.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--again", is_flag=True, help="Make the forecasts anew, of what was measured then.")
def report(file: Path, *, again: bool) -> None:
    """Sum up the runs in FILE, in all and for each body."""
    runs = [_again(run) if again else run for run in _read(file)]
    click.echo("| | runs | kinds | time within 80 % interval | verdict right | downtime error p90 | live / foretold |")
    click.echo("|---|---|---|---|---|---|---|")
    for body in ["", *dict.fromkeys(each.body for each in runs)]:
        click.echo(_row(body or "all", [each for each in runs if body in ("", each.body)]))


@bench.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def cost(file: Path) -> None:
    """Tell what it takes to work out a whole forecast of each guest in FILE, once for each body."""
    runs = {(each.kind, each.body): each for each in _read(file)}
    costs = sorted((_cpu_s(each.survey), f"{each.kind}, {each.body}") for each in runs.values())
    most_s, most = costs[-1]
    click.echo(f"{len(costs)} forecasts took {np.mean([cpu_s for cpu_s, _ in costs]):.2f} s of a core in the mean")
    click.echo(f"{most_s:.2f} s at most ({most})")


def _cpu_s(survey: Survey) -> float:
    start_s = process_time()
    work_out("", survey)
    return process_time() - start_s


def _trials(qemu10: str | None) -> Iterator[Trial]:
    """Yield two runs of each kind on each body, of which no two neighbours have the same link and limit."""
    bodies = [(ours(OWN), (PLANNED, RESPONSIVE)), *((peer, (PLANNED, RESPONSIVE)) for peer in qemus(qemu10))]
    number = 0
    for turn in range(2):
        for kind in KINDS:
            for peer, strategies in bodies:
                strategy = OWN if kind in (IDLE, SLOW) and turn else strategies[turn]
                rate, limit = RATES_MIB_PER_S[number % 4], LIMITS_MS[number % 3]
                yield Trial(kind, peer, strategy, rate, limit)
                number += 1
        number += 1


def _run(trial: Trial) -> Run:
    load = KINDS[trial.kind]
    clock = MonotonicClock()
    warm_memory(2 * load.memory_mib)
    with Lab() as lab:
        source, destination, uri = trial.peer.start_pair(lab, load)
        bandwidth, limit_ms = trial.mib_per_s * MIB, trial.downtime_limit_ms
        _, survey = survey_vm(source.monitor, clock, CancelToken(), bandwidth, limit_ms)
        (foretold,) = forecast(survey, (trial.strategy,))
        order = Order(
            uri=uri,
            variant=find_variant(trial.strategy),
            parameters={"max-bandwidth": bandwidth, "downtime-limit": limit_ms},
        )
        cancel = CancelToken()

        def watch(progress: Progress) -> None:
            if (progress.elapsed_ms or 0) > LONGEST_S * 1000 and progress.status == "active":
                cancel.set("it takes too long")

        ports = Ports(source.monitor, clock, cancel, lambda text: None, lambda text: None)
        result = carry_out(ports, order, watch)
        if result.completed:
            destination.check_memory()
    return Run(
        name=trial.name,
        kind=trial.kind,
        body=trial.peer.name,
        foretold=foretold,
        survey=survey,
        completed=result.completed,
        total_time_ms=result.last.elapsed_ms,
        downtime_ms=result.last.downtime_ms if result.completed else None,
        load=round(getloadavg()[0], 1),
    )


def _read(file: Path) -> list[Run]:
    return [msgspec.json.decode(line, type=Run) for line in file.read_bytes().splitlines()]


def _again(made: Run) -> Run:
    (foretold,) = forecast(made.survey, (made.foretold.strategy,))
    return msgspec.structs.replace(made, foretold=foretold)


def _line(made: Run) -> str:
    told = made.foretold.total_time_ms
    foretold = f"{told.p10 / 1000:.1f} to {told.p90 / 1000:.1f} s" if told else "never"
    came = f"{(made.total_time_ms or 0) / 1000:.1f} s" if made.completed else "called off"
    return f"{made.name}: foretold {foretold}, came {came}"


def _row(title: str, runs: Sequence[Run]) -> str:
    within = [each.is_within for each in runs if each.is_within is not None]
    right = [each.is_right for each in runs if each.is_right is not None]
    errors_ms = [each.downtime_error_ms for each in runs if each.downtime_error_ms is not None]
    ratios = [
        each.total_time_ms / each.foretold.total_time_ms.p50
        for each in runs
        if each.is_within is not None and each.total_time_ms and each.foretold.total_time_ms
    ]
    columns = [
        title,
        len(runs),
        len({each.kind for each in runs}),
        _share(within),
        _share(right),
        f"{np.percentile(errors_ms, 90):.0f} ms" if errors_ms else "",
        " / ".join(f"{value:.2f}" for value in np.percentile(ratios, (10, 50, 90))) if ratios else "",
    ]
    return f"| {' | '.join(map(str, columns))} |"


def _share(found: Sequence[bool]) -> str:
    return f"{np.mean(found):.0%} of {len(found)}" if found else ""


if __name__ == "__main__":
    bench()
