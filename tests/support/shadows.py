"""Migrations by a modelled QEMU's own auto-converge, with a policy in their shadow."""

from tests.simulation.qemu.scenes import scenario
from vmferry.cancel import CancelToken
from vmferry.control.looking_on import look_on
from vmferry.control.ports import Ports
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.convergence.variants import find_variant
from vmferry.migration.journal import Entry, MemoryJournal
from vmferry.simulation.qemu.lab import URI, ModelledLab
from vmferry.simulation.qemu.releases import find_release


def migrated_with_shadow(
    release: str, variant: str | None, rate: str = "1GB/s", limits: Limits = NO_LIMITS
) -> tuple[list[Entry], list[str]]:
    """Return what is recorded of a migration, and what is told of the shadow."""
    lab = ModelledLab(scenario(rate=rate).with_settings({"guest.used-memory": "192M"}), find_release(release), seed=0)
    monitor = lab.connect()
    states = [{"capability": "auto-converge", "state": True}]
    monitor.execute("migrate-set-capabilities", {"capabilities": states})
    monitor.execute("migrate-set-parameters", {"max-bandwidth": 50 << 20, "downtime-limit": 100})
    monitor.execute("migrate", {"uri": URI})
    journal, told = MemoryJournal(), list[str]()
    shadow = find_variant(variant) if variant else None
    ports = Ports(monitor, lab.clock, CancelToken(), told.append, told.append)
    look_on(ports, journal, lambda seen: None, shadow=shadow, limits=limits)
    return journal.entries, told
