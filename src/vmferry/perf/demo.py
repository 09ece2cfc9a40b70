"""The demo: a busy KVM VM moves from one process to another, once for each of the seed's variants.

The seed's guest had 100 GiB and its passes took 15 to 25 s; this one is small, so all constants of time of the
algorithm are divided by TIME_SCALE, and so is the pass: what is compared is the same, ten times faster.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from vmferry.clock import MonotonicClock
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import require_completed
from vmferry.control.drive import drive, set_up
from vmferry.errors import GuestError
from vmferry.experiment.experiment import Experiment
from vmferry.experiment.parts import GuestSpec, LinkSpec, LoadSpec
from vmferry.migration.journal import read_migration
from vmferry.migration.outcome import Outcome
from vmferry.perf.comparisons import LOOPBACK_BYTES_PER_S, SEED_PARAMETERS, SEED_VARIANTS
from vmferry.perf.lab import Lab, VmPair, VmProcess
from vmferry.perf.real_guest import boot, policy_options
from vmferry.simulation.run import SimulationResult, simulate
from vmferry.units import MIB

TIME_SCALE = 10
_JOURNAL = "demo.journal"

TYPICAL_WRITE_BYTES_PER_S = 2_600_000_000
"""What the demo's guest writes where the simulation was compared with it (docs/benchmarks.md)."""


def demo_experiment(memory_bytes: int = 256 * MIB, stress_bytes: int = 128 * MIB) -> Experiment:
    """Return the demo's guest and link. One pass over the stressed memory takes stress_bytes / max-bandwidth."""
    load = LoadSpec(pattern="sweep", memory_bytes=stress_bytes, write_bytes_per_s=TYPICAL_WRITE_BYTES_PER_S)
    return Experiment(
        name="demo",
        guest=GuestSpec(memory_bytes=memory_bytes, vcpu_count=2, loads=(load,)),
        link=LinkSpec(rate_bytes_per_s=LOOPBACK_BYTES_PER_S),
        parameters={"max-bandwidth": 64 * MIB, "downtime-limit": 500 // TIME_SCALE, "verify": True, **SEED_PARAMETERS},
        variants=SEED_VARIANTS,
        time_scale=TIME_SCALE,
    )


class DemoRun(Outcome, frozen=True, kw_only=True):
    """One migration of the demo, and the proof that the guest survived it."""

    variant: str
    checked_pages: int
    """Pages whose content was checked at the destination."""
    pages_per_s_before: float
    pages_per_s_after: float

    @property
    def speed_ratio(self) -> float:
        """The guest's speed at the destination as a share of that at the source."""
        return self.pages_per_s_after / self.pages_per_s_before


def run_demo(
    experiment: Experiment, watch: Callable[[str, Progress], None], tell: Callable[[str, str], None]
) -> Iterator[DemoRun]:
    """Migrate once for each variant and yield each run when it is over.

    `watch` is called with every poll of a variant's migration, `tell` with what else goes on. Raises VmferryError.
    """
    for name in experiment.variants:
        with Lab() as lab:
            tell(name, "booting two VM processes; the guest writes all its memory for the first time")
            options = policy_options(experiment, name, lab.directory)
            journal = lab.directory / _JOURNAL
            yield _migrate(name, experiment, boot(lab, experiment, journal, options), journal, watch, tell)


def _migrate(
    name: str,
    experiment: Experiment,
    pair: VmPair,
    journal: Path,
    watch: Callable[[str, Progress], None],
    tell: Callable[[str, str], None],
) -> DemoRun:
    source = pair.source
    speed_before = source.pages_per_s()
    set_up(source.monitor, experiment.settings(name), auto_converge=True)
    written_before = source.progress().written_pages
    require_completed(drive(source.monitor, pair.uri, lambda progress: watch(name, progress), MonotonicClock()))
    tell(name, "checking the guest")
    _require_postmigrate(source)
    progress = pair.destination.check_memory()
    if progress.written_pages <= written_before:
        raise GuestError("the guest's counters did not go on from where they stood")
    return DemoRun.of(
        read_migration(journal).entries,
        variant=name,
        checked_pages=progress.page_count,
        pages_per_s_before=speed_before,
        pages_per_s_after=pair.destination.pages_per_s(),
    )


def simulate_demo(experiment: Experiment) -> list[SimulationResult]:
    """Run the demo on a modelled guest, once for each variant."""
    return [simulate(experiment, variant) for variant in experiment.variants]


def _require_postmigrate(source: VmProcess) -> None:
    status = source.monitor.execute("query-status")
    if status != {"running": False, "status": "postmigrate"}:
        raise GuestError(f"the source should be paused as 'postmigrate', but it says {status}")
