"""A manager, such as libvirt, looks after a VM besides its monitor's clients, and may migrate it itself."""

from dataclasses import dataclass
from typing import Protocol

MIGRATION = "migration"
"""The job that moves a domain to another host."""


@dataclass(frozen=True)
class Completion:
    """What a manager says of its migration when QEMU's part is over; None is what it did not say."""

    arrived: bool | None = None
    """Whether the VM runs at the destination; if False, it runs on here."""
    downtime_ms: int | None = None
    """How long the guest stood still, also if somebody suspended it before."""


class Manager(Protocol):
    """What a manager tells of a VM."""

    name: str
    restores: frozenset[str]
    """QEMU's parameters that it puts back by itself at the end of a migration of its own."""
    migrates: bool
    """True once its job was found to be MIGRATION: what migrates, or has migrated since, is its own."""

    def job(self) -> str | None:
        """Return what it does with the whole VM now: MIGRATION, `save`, `dump` ...; None is nothing.

        Raises MonitorError.
        """
        ...

    def completion(self) -> Completion:
        """Wait, not for ever, for what it says of its migration, which QEMU has completed."""
        ...
