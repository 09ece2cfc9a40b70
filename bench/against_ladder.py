"""Does `planned` end wherever a ladder does? `python -m bench.against_ladder --help`.

Random guests, links and hosts in virtual time: sets that are rewritten or written at random, paced and in bursts, on
links that waver and stand still, on hosts that are short of processors, moved by our own engine or in modelled QEMUs
that are driven. Each is moved by `background-sync+responsive-throttle`, and where that ends, by `planned`.
"""

import math
import random
from typing import Any

import click

from vmferry.experiment.experiment import Experiment, experiment_of
from vmferry.migration.outcome import Outcome
from vmferry.study.simulate import simulate

LADDER = "background-sync+responsive-throttle"
_TIMES, _MORE_MS = 1.5, 5000
"""`planned` may take so many times as long, and that much more."""
_OFTEN = {"x-evaluation-period": 100, "x-watch-interval": 100, "x-background-sync-interval": 500}


def migration(seed: int) -> Experiment:
    """Return one of them; the same seed gives the same one."""
    draw = random.Random(seed)
    driven = draw.choice(["", "", "qemu-7.2", "qemu-10"])
    set_mib = round(spread(draw, 8, 400))
    memory_mib = min(1024, round(set_mib * draw.choice([1, 1.3, 2, 4]) + 8))
    rate = int(spread(draw, set_mib / 12, set_mib / 0.3) * (1 << 20))
    guest: dict[str, Any] = {
        "memory": f"{memory_mib}M",
        "vcpus": draw.choice([1, 1, 2]),
        "throttle-slice": "10ms",
        "loads": _loads(draw, set_mib, rate),
    }
    if draw.random() < 0.6:
        guest |= {"stolen": round(draw.uniform(0.1, 0.85), 2), "stolen-for": _ms(spread(draw, 2, 500))}
    if draw.random() < 0.3:
        guest["used-memory"] = f"{memory_mib}M"
    parameters: dict[str, Any] = {"downtime-limit": draw.choice([100, 200, 300, 500])}
    if draw.random() < 0.5:
        parameters["max-bandwidth"] = rate
    if not driven and draw.random() < 0.3:
        parameters |= _OFTEN
    return experiment_of({
        "name": f"random {seed}",
        "guest": guest,
        "link": _link(draw, rate),
        "parameters": parameters,
        "limits": {"max-time": "150s", "max-iterations": 3000},
        "driven": driven,
    })  # fmt: skip


def _loads(draw: random.Random, set_mib: int, rate: int) -> list[dict[str, Any]]:
    write_rate = min(4e9, spread(draw, 0.3 * rate, 200 * rate))
    load: dict[str, Any] = {
        "pattern": draw.choice(["sweep", "sweep", "uniform", "hot-cold", "hot-spot"]),
        "memory": f"{set_mib}M",
        "write-rate": f"{int(write_rate)}B/s",
    }
    if load["pattern"] == "hot-spot":
        load["working-set"] = f"{max(1, set_mib // draw.choice([4, 10, 20]))}M"
        load["hot-share"] = draw.choice([0.5, 0.75, 0.9])
    if draw.random() < 0.25:
        load |= {"write-rate": "3GB/s", "pace": f"{int(min(write_rate, 1e9))}B/s"}
        if draw.random() < 0.3:
            load["every"] = draw.choice(["100ms", "1s", "3s"])
    if draw.random() < 0.85:
        return [load]
    load["duration"] = _ms(spread(draw, 50, 3000))
    idle = {"pattern": "idle", "duration": _ms(spread(draw, 50, 3000))}
    less = {**load, "memory": f"{max(1, set_mib // 3)}M", "working-set": "1M", "duration": "500ms"}
    return [load, idle if draw.random() < 0.6 or load["pattern"] != "hot-spot" else less]


def _link(draw: random.Random, rate: int) -> dict[str, Any]:
    link: dict[str, Any] = {"rate": f"{rate}B/s"}
    if draw.random() < 0.6:
        link |= {"jitter": round(draw.uniform(0.05, 0.6), 2), "jitter-interval": _ms(spread(draw, 20, 2000))}
    if draw.random() < 0.2:
        now_ms, changes = 0.0, []
        for _ in range(draw.randrange(1, 5)):
            begin_ms = now_ms + spread(draw, 500, 15_000)
            now_ms = begin_ms + spread(draw, 100, 4000)
            changes += [[_ms(begin_ms), "1B/s"], [_ms(now_ms), link["rate"]]]
        link["rate-changes"] = changes
    return link


def spread(draw: random.Random, least: float, most: float) -> float:
    """Return a number of any order of magnitude between the two."""
    return math.exp(draw.uniform(math.log(least), math.log(most)))


def _ms(duration_ms: float) -> str:
    return f"{round(duration_ms)}ms"


def both(seed: int) -> tuple[Outcome, Outcome | None]:
    """Return what comes of it by the ladder, and by `planned` in the time that it may take; None if no ladder helps."""
    experiment = migration(seed)
    ladder = simulate(experiment, LADDER)
    if not ladder.completed or ladder.total_time_ms is None:
        return ladder, None
    longest_ms = round(_TIMES * ladder.total_time_ms + _MORE_MS)
    return ladder, simulate(experiment.with_settings({"limits.max-time": f"{longest_ms}ms"}), "planned")


@click.command()
@click.option("--first", default=0, show_default=True, help="Seed of the first one.")
@click.option("--count", default=100, show_default=True, help="How many.")
def bench(first: int, count: int) -> None:
    """Name those that a ladder moves and `planned` does not, in 1.5 times the time and 5 s."""
    moved = missed = 0
    for seed in range(first, first + count):
        ladder, planned = both(seed)
        moved += planned is not None
        if planned and not planned.completed:
            missed += 1
            lost = f"{ladder.work_lost_vcpu_s or 0:.1f} and {planned.work_lost_vcpu_s or 0:.1f} vCPU-s lost"
            took_s = (ladder.total_time_ms or 0) / 1000
            click.echo(f"{seed} ({migration(seed).driven or 'ours'}): the ladder took {took_s:.1f} s; {lost}")
    click.echo(f"the ladder moved {moved} of {count}, and planned {moved - missed} of those")


if __name__ == "__main__":
    bench()
