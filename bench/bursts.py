"""Forecasts of guests in bursts against what comes of them, in virtual time: `python -m bench.bursts --help`.

Random guests that collect garbage, write a checkpoint every 10 s, or are paced by work that comes all at once. Each is
surveyed in a modelled QEMU, from some moment on, and migrated from others on, in that QEMU or by our own engine.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import click

from bench.truth import OWN, PLANNED, RESPONSIVE
from vmferry.cancel import CancelToken
from vmferry.convergence.variants import NO_AUTO_CONVERGE
from vmferry.experiment.experiment import Experiment, experiment_of
from vmferry.simulation.qemu.lab import ModelledLab
from vmferry.simulation.qemu.releases import find_release
from vmferry.simulation.run import Simulation
from vmferry.study.driven import DrivenRun
from vmferry.study.forecast import StrategyForecast, forecast
from vmferry.study.measured_survey import survey_vm
from vmferry.study.survey import QEMU_NEW, QEMU_OLD, Survey
from vmferry.units import MIB, NS_PER_MS

OURS = ""
BODIES = (OURS, QEMU_OLD, QEMU_NEW)
STRATEGIES = (PLANNED, RESPONSIVE, NO_AUTO_CONVERGE.name, OWN)
_LATEST_MS = 20_000
"""A guest is surveyed, and begins to migrate, at a moment until then."""


@dataclass(frozen=True)
class Trial:
    """One forecast, and what came when the guest was migrated from several moments on."""

    foretold: StrategyForecast
    times_ms: tuple[int | None, ...]
    """None of a migration that did not converge."""

    @property
    def within(self) -> list[bool]:
        """Of each that was foretold to converge and did, whether it took as long as was foretold."""
        told = self.foretold.total_time_ms
        return [told.p10 <= time_ms <= told.p90 for time_ms in self.times_ms if told and time_ms is not None]

    @property
    def right(self) -> list[bool]:
        """Of each, whether it was right that it will, or will not; none where it was foretold that it may."""
        chance = self.foretold.chance
        return [(chance == 1) == (time_ms is not None) for time_ms in self.times_ms] if chance in (0, 1) else []


def guest_in_bursts(seed: int) -> Experiment:
    """Return one of them; the same seed gives the same one."""
    draw = random.Random(seed)
    set_mib = round(_spread(draw, 64, 384))
    memory = f"{round(set_mib * draw.choice([1, 1.3, 2]) + 8)}M"
    rate = int(_spread(draw, 40, 400)) * MIB
    return experiment_of({
        "name": f"in bursts {seed}",
        "guest": {
            "memory": memory,
            "vcpus": 1,
            "used-memory": memory,
            "throttle-slice": "10ms",
            "loads": _loads(draw, set_mib),
        },
        "link": {"rate": f"{rate}B/s", "jitter": 0.05, "jitter-interval": "100ms"},
        "parameters": {"downtime-limit": draw.choice([150, 300, 500]), "max-bandwidth": rate},
        "limits": {"max-time": "140s", "max-iterations": 3000},
    })  # fmt: skip


def _loads(draw: random.Random, set_mib: int) -> list[dict[str, Any]]:
    burst: dict[str, Any] = {"pattern": draw.choice(["sweep", "uniform", "hot-cold"]), "memory": f"{set_mib}M"}
    kind = draw.choice(["garbage", "garbage", "checkpoint", "paced"])
    if kind == "paced":
        every, pace = f"{round(_spread(draw, 700, 10_000))}ms", f"{int(_spread(draw, 1e8, 8e8))}B/s"
        return [{**burst, "write-rate": "2GB/s", "every": every, "pace": pace}]
    burst["write-rate"] = f"{int(_spread(draw, 4e8, 3e9))}B/s"
    little = {"memory": f"{max(1, round(set_mib * _spread(draw, 0.01, 0.3)))}M"}
    little |= {"pattern": "sweep", "write-rate": f"{int(_spread(draw, 2e6, 1e8))}B/s"}
    calm: dict[str, Any] = draw.choice([{"pattern": "idle"}, little])
    if kind == "garbage":
        burst_ms, calm_ms = round(_spread(draw, 100, 800)), round(_spread(draw, 300, 3000))
    else:
        burst_ms = round(_spread(draw, 500, 2500))
        calm_ms = 10_000 - burst_ms
    return [calm | {"duration": f"{calm_ms}ms"}, burst | {"duration": f"{burst_ms}ms"}]


def _spread(draw: random.Random, least: float, most: float) -> float:
    return math.exp(draw.uniform(math.log(least), math.log(most)))


def trial(seed: int, body: str, strategy: str, count: int) -> Trial:
    """Survey the guest of that seed, foretell a strategy, and migrate it by that so many times."""
    experiment, draw = guest_in_bursts(seed), random.Random(seed)
    survey = _survey(experiment.driven_by(body or QEMU_NEW), draw.randrange(_LATEST_MS))
    (foretold,) = forecast(replace(survey, qemu=body), (strategy,))
    times = (_migrated(experiment, body, strategy, draw.randrange(_LATEST_MS), number) for number in range(count))
    return Trial(foretold, tuple(times))


def _survey(experiment: Experiment, at_ms: int) -> Survey:
    lab = ModelledLab(experiment, find_release(experiment.driven), 1)
    lab.clock.sleep_ns(at_ms * NS_PER_MS)
    return survey_vm(lab.connect(), lab.clock, CancelToken(), *_bandwidth_and_limit(experiment))[1]


def _bandwidth_and_limit(experiment: Experiment) -> tuple[int, int]:
    return int(experiment.parameters["max-bandwidth"]), int(experiment.parameters["downtime-limit"])


def _migrated(experiment: Experiment, body: str, strategy: str, at_ms: int, seed: int) -> int | None:
    """Return how long it took; None if it did not converge."""
    if body:
        run = DrivenRun(experiment.driven_by(body), strategy, seed)
        run.lab.clock.sleep_ns(at_ms * NS_PER_MS)
        result = run.run()
        return result.last.elapsed_ms if result.completed else None
    simulation = Simulation(experiment, strategy, seed)
    simulation.clock.sleep_ns(at_ms * NS_PER_MS)
    outcome = simulation.run()
    return outcome.total_time_ms - at_ms if outcome.completed and outcome.total_time_ms is not None else None


def trials(first: int, count: int, migrations: int) -> Iterator[tuple[str, str, Trial]]:
    """Yield body, strategy and trial of guests from that seed on, each in all bodies, by one of the strategies."""
    for seed in range(first, first + count):
        for number, body in enumerate(BODIES):
            strategy = STRATEGIES[(seed + number) % len(STRATEGIES)]
            yield body, strategy, trial(seed, body, strategy, migrations)


@click.command()
@click.option("--first", default=0, show_default=True, help="Seed of the first guest.")
@click.option("--count", default=12, show_default=True, help="How many guests.")
@click.option("--migrations", default=4, show_default=True, help="Of each, in each body.")
def bench(first: int, count: int, migrations: int) -> None:
    """Tell how many migrations took as long as was foretold, and of how many it was right that they will, or not."""
    made: dict[str, list[Trial]] = {body: [] for body in BODIES}
    for body, strategy, each in trials(first, count, migrations):
        made[body].append(each)
        told = each.foretold.total_time_ms
        foretold = f"{told.p10 / 1000:.1f} to {told.p90 / 1000:.1f} s" if told else "never"
        came = ", ".join("never" if time_ms is None else f"{time_ms / 1000:.1f}" for time_ms in each.times_ms)
        name = body or "ours"
        click.echo(f"{first + len(made[body]) - 1} {name}, {strategy}: foretold {foretold}, came {came}", err=True)
    click.echo("| | migrations | time within 80 % interval | verdict right |")
    click.echo("|---|---|---|---|")
    for title, of in {"all": [each for all_of in made.values() for each in all_of], **made}.items():
        within, right = ([value for each in of for value in values(each)] for values in (_within, _right))
        shares = (f"{sum(flags) / max(1, len(flags)):.0%} of {len(flags)}" for flags in (within, right))
        click.echo(f"| {title or 'ours'} | {migrations * len(of)} | {' | '.join(shares)} |")


def _within(each: Trial) -> list[bool]:
    return each.within


def _right(each: Trial) -> list[bool]:
    return each.right


if __name__ == "__main__":
    bench()
