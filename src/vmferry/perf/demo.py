"""The demo: a busy KVM VM moves from one process to another, once for each of the seed's variants.

The seed's guest had 100 GiB and its passes took 15 to 25 s; this one is small, so all constants of time of the
algorithm are divided by TIME_SCALE, and so is the pass: what is compared is the same, ten times faster.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from vmferry.control.drive import Progress, Result, drive, require_completed, set_up
from vmferry.convergence.variants import VARIANTS
from vmferry.errors import GuestError
from vmferry.experiment.experiment import Experiment
from vmferry.migration.journal import read_migration
from vmferry.migration.outcome import Outcome
from vmferry.perf.lab import Lab, VmProcess
from vmferry.perf.scenarios import SEED_VARIANTS
from vmferry.simulation.run import SimulationResult, simulate
from vmferry.vm.clock import MonotonicClock

TIME_SCALE = 10
_JOURNAL = "demo.journal"

LOOPBACK_RATE = "1GB/s"
"""How fast the last pages go, for which the rate limit is lifted."""

TYPICAL_WRITE_BYTES_PER_S = 2_600_000_000
"""What the demo's guest writes where the simulation was compared with it (docs/benchmarks.md)."""


@dataclass(frozen=True)
class DemoSetting:
    """The demo's guest and link. One pass over the stressed memory takes stress_mib / link."""

    memory_mib: int = 256
    vcpu_count: int = 2
    stress_mib: int = 128
    link_bytes_per_s: int = 64 << 20
    downtime_limit_ms: int = 500 // TIME_SCALE

    @property
    def parameters(self) -> dict[str, object]:
        """The migration parameters of all variants, with the constants of time scaled down."""
        return {
            "max-bandwidth": self.link_bytes_per_s,
            "downtime-limit": self.downtime_limit_ms,
            "x-evaluation-period": 1000 // TIME_SCALE,
            "x-watch-interval": 1000 // TIME_SCALE,
            "x-background-sync-interval": 5000 // TIME_SCALE,
            "verify": True,
        }

    def scenario(self, write_bytes_per_s: int) -> Experiment:
        """Return the same experiment as a simulation, for a guest that writes so fast."""
        loads = [{"pattern": "sweep", "memory": f"{self.stress_mib}M", "write-rate": str(write_bytes_per_s)}]
        guest = {"memory": f"{self.memory_mib}M", "vcpus": self.vcpu_count, "loads": loads}
        data = {
            "name": "demo",
            "guest": guest,
            "link": {"rate": LOOPBACK_RATE},
            "parameters": self.parameters,
            "variants": SEED_VARIANTS,
        }
        return msgspec.convert(data, Experiment)


class DemoRun(Outcome, frozen=True, kw_only=True):
    """One migration of the demo, and the proof that the guest survived it."""

    variant: str
    result: Result
    """What the driver has seen."""
    checked_pages: int
    """Pages whose content was checked at the destination."""
    speed_before_pages_per_s: float
    speed_after_pages_per_s: float

    @property
    def speed_ratio(self) -> float:
        """The guest's speed at the destination as a share of that at the source."""
        return self.speed_after_pages_per_s / self.speed_before_pages_per_s


def run_demo(
    setting: DemoSetting, watch: Callable[[str, Progress], None], tell: Callable[[str, str], None]
) -> Iterator[DemoRun]:
    """Migrate once for each variant and yield each run when it is over.

    `watch` is called with every poll of a variant's migration, `tell` with what else goes on. Raises VmferryError.
    """
    for name in SEED_VARIANTS:
        with Lab() as lab:
            tell(name, "booting two VM processes")
            source, destination, uri = lab.start_pair(
                ["--memory", f"{setting.memory_mib}M", "--cpus", str(setting.vcpu_count)],
                ["--append", f"ramsize={setting.stress_mib}", "--journal", str(lab.directory / _JOURNAL)],
            )
            tell(name, "the guest writes all its memory for the first time")
            source.wait_for_passes(2)
            yield _migrate(name, setting, source, destination, uri, lab.directory / _JOURNAL, watch, tell)


def _migrate(
    name: str,
    setting: DemoSetting,
    source: VmProcess,
    destination: VmProcess,
    uri: str,
    journal: Path,
    watch: Callable[[str, Progress], None],
    tell: Callable[[str, str], None],
) -> DemoRun:
    speed_before = source.pages_per_s()
    set_up(source.monitor, {**VARIANTS[name].settings, **setting.parameters}, auto_converge=True)
    written_before = source.progress().written_pages
    result = require_completed(drive(source.monitor, uri, lambda progress: watch(name, progress), MonotonicClock()))
    tell(name, "checking the guest")
    _require_postmigrate(source)
    progress = destination.check_memory()
    if progress.written_pages <= written_before:
        raise GuestError("the guest's counters did not go on from where they stood")
    return DemoRun.of(
        read_migration(journal).entries,
        variant=name,
        result=result,
        checked_pages=progress.page_count,
        speed_before_pages_per_s=speed_before,
        speed_after_pages_per_s=destination.pages_per_s(),
    )


def simulate_demo(setting: DemoSetting, write_bytes_per_s: int = TYPICAL_WRITE_BYTES_PER_S) -> list[SimulationResult]:
    """Run the demo on a modelled guest, once for each variant."""
    scenario = setting.scenario(write_bytes_per_s)
    return [simulate(scenario, variant) for variant in SEED_VARIANTS]


def _require_postmigrate(source: VmProcess) -> None:
    status = source.monitor.execute("query-status")
    if status != {"running": False, "status": "postmigrate"}:
        raise GuestError(f"the source should be paused as 'postmigrate', but it says {status}")
