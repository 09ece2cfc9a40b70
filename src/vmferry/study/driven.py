"""Runs the shipped driver on a scenario in virtual time: a modelled QEMU is driven from outside by `control/`."""

from collections.abc import Iterable

from vmferry.cancel import CancelToken
from vmferry.control.arriving.destination import Destination
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.convergence.variants import Variant
from vmferry.errors import UsageError
from vmferry.experiment.experiment import Experiment
from vmferry.migration.journal import MemoryJournal
from vmferry.simulation.qemu.destination import LOADS, LoadModel
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.monitor import Fault
from vmferry.simulation.qemu.releases import find_release
from vmferry.simulation.run import SimulationResult
from vmferry.study.modelled_place import ModelledPlace

_UNLIMITED = {"max-bandwidth": 0}
"""The scenario's link is the limit, unless it says otherwise."""


class DrivenRun:
    """One driven migration, made of a scenario's parts; `run` carries it out."""

    def __init__(
        self,
        scenario: Experiment,
        variant: str,
        seed: int = 0,
        *,
        faults: Iterable[Fault] = (),
        lost_quotas: Iterable[int] = (),
        load_model: LoadModel = LOADS,
        holds_destination: bool = False,
        destination_faults: Iterable[Fault] = (),
        limits: Limits = NO_LIMITS,
    ) -> None:
        """`holds_destination` if the driver is told of the destination's monitor, and keeps it from running the guest.

        Raises UsageError if the scenario names no release, or there is no such variant.
        """
        self.scenario = scenario
        self.lab = ModelledLab(scenario, find_release(scenario.driven), seed, load_model)
        self.place = ModelledPlace(self.lab, lost_quotas)
        self.journal = MemoryJournal()
        self.cancel = CancelToken()
        self.told: list[str] = []
        self.monitor = self.lab.connect(faults, self.cancel.check)
        self.there = self.lab.connect_to_destination(destination_faults, self.cancel.check)
        chosen = scenario.variant(variant)
        self._order = Order(
            uri=URI,
            variant=chosen,
            auto_converge=chosen.auto_converge,
            parameters={**_UNLIMITED, **_given(scenario, chosen, self.lab)},
            destination=Destination(self.there, self.lab.driver_clock) if holds_destination else None,
            limits=limits,
            journal=self.journal,
        )
        self.lab.clock.schedule(scenario.limits.max_time_ns, self._cancel)

    def run(self) -> Result:
        """Migrate. Raises what `carry_out` does."""
        tell = self.told.append
        ports = Ports(self.monitor, self.lab.driver_clock, self.cancel, tell, tell)
        return carry_out(ports, self._order, self._watch, self.place.driver_place)

    def _watch(self, progress: Progress) -> None:
        if (progress.iteration_count or 0) > self.scenario.limits.max_iterations:
            self._cancel()

    def _cancel(self) -> None:
        self.cancel.set("the limit of the scenario")


def _given(scenario: Experiment, variant: Variant, lab: ModelledLab) -> dict[str, object]:
    """Return the scenario's parameters: all where we decide, and else those that QEMU has. Raises UsageError."""
    if variant.auto_converge and not variant.is_qemus:
        return scenario.common_settings
    if variant.auto_converge and scenario.time_scale > 1:
        raise UsageError(
            f"time-scale is {scenario.time_scale}, but QEMU's own auto-converge, which '{variant.name}' is, has no "
            "such setting; choose other variants, or make time-scale 1"
        )
    has = lab.host.settings.parameters
    return {name: value for name, value in scenario.parameters.items() if name in has}


def simulate_driven(scenario: Experiment, variant: str, seed: int = 0, limits: Limits = NO_LIMITS) -> SimulationResult:
    """Have the driver migrate the scenario's guest, which runs in a modelled QEMU. The same seed gives the same result.

    A variant that QEMU has by itself leaves it to its own auto-converge. Raises UsageError.
    """
    run = DrivenRun(scenario, variant, seed, limits=limits)
    run.run()
    entries = run.journal.entries
    return SimulationResult.of(
        entries, scenario=scenario.name, variant=scenario.label(variant), seed=seed, entries=entries
    )
