"""The one table of migration capabilities, by QEMU's names (`qapi/migration.json`)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from vmferry.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class MigrationCapabilities:
    """Which optional features are on; all are off at first."""

    auto_converge: bool = False
    events: bool = False
    multifd: bool = False
    pause_before_switchover: bool = False
    xbzrle: bool = False

    def changed(self, states: Mapping[str, bool]) -> "MigrationCapabilities":
        """Return a copy with these set; or UsageError, and nothing is."""
        for name, state in states.items():
            if name not in CAPABILITIES:
                raise UsageError(f"Parameter 'capability' does not accept value '{name}'")
            if state and name in INERT_CAPABILITIES:
                raise UsageError(f"Capability '{name}' is not supported")
        ours = {name: state for name, state in states.items() if name not in INERT_CAPABILITIES}
        changed = replace(self, **{name.replace("-", "_"): state for name, state in ours.items()})
        if changed.multifd and changed.xbzrle:
            raise UsageError("Multifd is not compatible with xbzrle")
        return changed

    def as_qmp(self) -> dict[str, bool]:
        """Return the state of every capability of QEMU's under its name."""
        return {name: getattr(self, name.replace("-", "_"), False) for name in CAPABILITIES}


CAPABILITIES: dict[str, str] = {
    "xbzrle": "send only what changed of a page",
    "rdma-pin-all": "pin all memory for RDMA",
    "auto-converge": "slow the guest down until the migration converges",
    "zero-blocks": "compress runs of zeros in block migration",
    "events": "emit MIGRATION and MIGRATION_PASS events",
    "postcopy-ram": "let the guest run on before all memory has moved",
    "x-colo": "keep a second VM in lockstep",
    "release-ram": "free memory on the source as soon as it was sent",
    "return-path": "let the destination answer (it always does here)",
    "pause-before-switchover": "wait for migrate-continue before the hand-over",
    "multifd": "send memory over several connections",
    "dirty-bitmaps": "move the dirty bitmaps of block devices",
    "postcopy-blocktime": "measure how long post-copy blocks the guest",
    "late-block-activate": "do not take block devices over before the guest runs",
    "x-ignore-shared": "do not send memory that both sides share",
    "validate-uuid": "compare the UUIDs of both sides",
    "background-snapshot": "save a running guest at one moment in time",
    "zero-copy-send": "send without copying inside the kernel",
    "postcopy-preempt": "send pages that the guest waits for on a connection of their own",
    "switchover-ack": "ask the destination before the hand-over",
    "dirty-limit": "slow down only the vCPUs that write most",
    "mapped-ram": "give every page a fixed place in a file",
}
"""The help of every capability of QEMU 10.1 by its name, in QEMU's order."""

INERT_CAPABILITIES = CAPABILITIES.keys() - {f.name.replace("_", "-") for f in fields(MigrationCapabilities)}
"""Capabilities that vmferry knows but does not have."""
