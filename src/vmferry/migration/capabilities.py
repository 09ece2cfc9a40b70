"""The one table of migration capabilities, by QEMU's names (`qapi/migration.json`)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from vmferry.errors import UsageError


def _capability(help: str) -> Any:
    return field(default=False, metadata={"help": help})


@dataclass(frozen=True, kw_only=True)
class MigrationCapabilities:
    """Which optional features are on; all are off at first."""

    auto_converge: bool = _capability("slow the guest down until the migration converges")
    events: bool = _capability("emit MIGRATION and MIGRATION_PASS events")

    def changed(self, states: Mapping[str, bool]) -> "MigrationCapabilities":
        """Return a copy with these set. Raises UsageError for an unknown name; then nothing is set."""
        for name in states:
            if name not in CAPABILITIES:
                raise UsageError(f"Parameter 'capability' does not accept value '{name}'")
        return replace(self, **{name.replace("-", "_"): state for name, state in states.items()})

    def as_qmp(self) -> dict[str, bool]:
        """Return every state under its QMP name."""
        return {name: getattr(self, name.replace("-", "_")) for name in CAPABILITIES}


CAPABILITIES: dict[str, str] = {f.name.replace("_", "-"): f.metadata["help"] for f in fields(MigrationCapabilities)}
"""The help of every capability by its QMP name."""
