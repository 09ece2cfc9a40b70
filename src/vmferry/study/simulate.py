"""Migrates a scenario's guest in virtual time: by our own engine, or by the driver if the scenario is of a QEMU."""

from vmferry.experiment.experiment import Experiment
from vmferry.simulation import run
from vmferry.simulation.run import SimulationResult
from vmferry.study.driven import simulate_driven


def simulate(scenario: Experiment, variant: str, seed: int = 0) -> SimulationResult:
    """Return what it comes to. The same seed gives the same result. Raises UsageError."""
    simulate_so = simulate_driven if scenario.driven else run.simulate
    return simulate_so(scenario, variant, seed)
