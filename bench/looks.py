"""What the decisions of the policy `planned` take: `python -m bench.looks --help`.

It is told apart whether a look only takes notice, or plans. Times are processor time, so other work does not count.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from unittest.mock import Mock, patch

import click
import numpy as np

from bench.planned import CASES, SEED_GUESTS
from vmferry.convergence.actions import Action
from vmferry.convergence.lookahead import look_ahead_each
from vmferry.convergence.policies import moment
from vmferry.convergence.policies.planned import Planned
from vmferry.convergence.policies.planned_settings import PlannedSettings
from vmferry.convergence.sensing import View
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.scenario import load_scenario, parse_scenario
from vmferry.study.simulate import simulate

QUANTILES = (0.5, 0.99, 1.0)


@dataclass
class Looks:
    """The processor time that each look took, in ns."""

    mere_ns: list[int] = field(default_factory=list)
    planning_ns: list[int] = field(default_factory=list)


@contextmanager
def timed() -> Iterator[Looks]:
    """Time the looks of all migrations meanwhile."""
    looks, look, following = Looks(), Planned.look, Mock(wraps=look_ahead_each)

    def timed_look(self: Planned, view: View, settings: PlannedSettings) -> list[Action]:
        following.reset_mock()
        start_ns = time.thread_time_ns()
        actions = list(look(self, view, settings))
        took_ns = time.thread_time_ns() - start_ns
        (looks.planning_ns if following.called else looks.mere_ns).append(took_ns)
        return actions

    with patch.object(moment, "look_ahead_each", following), patch.object(Planned, "look", timed_look):
        yield looks


def scenarios() -> Iterator[tuple[str, Experiment]]:
    """Yield the guests that `bench.planned` moves in virtual time, by whatever moves them."""
    for name in SEED_GUESTS:
        yield name, load_scenario(name).with_settings({"guest.zero-scan-rate": "0"})
    for case in CASES:
        for body in case.bodies:
            yield f"{case.name}, {body or 'ours'}", parse_scenario(case.scenario(body).encode(), case.name)


@click.command()
@click.option("--only", default="", help="Only guests whose name contains this.")
def main(only: str) -> None:
    """Migrate guests in virtual time and tell what each look took: median, 99th percentile, longest, in ms."""
    click.echo("| guest | mere looks | p50 | p99 | max | looks that plan | p50 | p99 | max |")
    click.echo("|---|---|---|---|---|---|---|---|---|")
    all_looks = Looks()
    for label, scenario in scenarios():
        if only in label:
            with timed() as looks:
                simulate(scenario, "planned")
            _print(label, looks)
            all_looks.mere_ns += looks.mere_ns
            all_looks.planning_ns += looks.planning_ns
    _print("all", all_looks)


def _print(label: str, looks: Looks) -> None:
    cells = [cell for durations_ns in (looks.mere_ns, looks.planning_ns) for cell in _told(durations_ns)]
    click.echo(f"| {label} | {' | '.join(cells)} |")


def _told(durations_ns: list[int]) -> list[str]:
    quantiles_ms = np.quantile(durations_ns or [0], QUANTILES) / 1e6
    return [str(len(durations_ns)), *(f"{quantile_ms:.3g}" for quantile_ms in quantiles_ms)]


if __name__ == "__main__":
    main()
