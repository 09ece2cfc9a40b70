"""Has a modelled QEMU migrate by itself, with nobody at its side: that costs less than a driver that only looks on."""

from vmferry.experiment.experiment import Experiment
from vmferry.migration.outcome import Outcome
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.migration import ModelledMigration
from vmferry.simulation.qemu.releases import find_release
from vmferry.simulation.run import IsLost
from vmferry.units import NS_PER_MS, NS_PER_S

_LOOK_NS = 50 * NS_PER_MS


def simulate_undriven(scenario: Experiment, seed: int, *, auto_converge: bool, is_lost: IsLost) -> Outcome:
    """Return what comes of it, to its end or the scenario's limits, or until it is lost."""
    lab = ModelledLab(scenario, find_release(scenario.driven), seed)
    state = {"auto-converge": auto_converge, "return-path": True}
    lab.host.settings.set_parameters(scenario.common_settings)
    lab.host.settings.set_capabilities([{"capability": name, "state": on} for name, on in state.items()])
    migration = ModelledMigration(lab.host, URI)
    _follow(lab, migration, scenario, is_lost)
    answer = migration.answer()
    return Outcome(
        status=migration.status.value,
        total_time_ms=answer.get("total-time"),
        downtime_ms=answer.get("downtime"),
        sent_bytes=migration.sent_bytes,
        vcpu_count=lab.guest.layout.vcpu_count,
        work_lost_vcpu_s=lab.guest.lost_ns * lab.guest.layout.vcpu_count / NS_PER_S,
    )


def _follow(lab: ModelledLab, migration: ModelledMigration, scenario: Experiment, is_lost: IsLost) -> None:
    limits, syncs = scenario.limits, 0
    while migration.status.is_running:
        lab.clock.sleep_ns(_LOOK_NS)
        is_over = lab.clock.now_ns() > limits.max_time_ns or migration.sync_count > limits.max_iterations
        if migration.sync_count > syncs:
            syncs = migration.sync_count
            is_over |= is_lost(migration.bytes_at_last_sync, migration.sent_bytes)
        if is_over:
            migration.cancel()
    lab.clock.sleep_ns(_LOOK_NS)  # until it has its figures
