"""The states of a migration and the one table of legal transitions (QEMU `MigrationStatus`)."""

from enum import StrEnum


class MigrationStatus(StrEnum):
    """QEMU's words for the states, and `in-doubt`, which is ours. Post-copy and COLO have none here."""

    NONE = "none"
    SETUP = "setup"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
    ACTIVE = "active"
    COMPLETED = "completed"
    FAILED = "failed"
    PRE_SWITCHOVER = "pre-switchover"
    DEVICE = "device"
    IN_DOUBT = "in-doubt"
    """The guest was given away and nobody has confirmed it: it may run at the destination, and stays paused here."""

    @property
    def is_running(self) -> bool:
        """True from the acceptance of a migration until its end."""
        return self in _RUNNING

    @property
    def has_figures(self) -> bool:
        """True if `query-migrate` reports more than the status (QEMU `fill_source_migration_info`)."""
        return self in _WITH_FIGURES


_S = MigrationStatus
_RUNNING = frozenset({_S.SETUP, _S.ACTIVE, _S.PRE_SWITCHOVER, _S.DEVICE, _S.CANCELLING})
_WITH_FIGURES = frozenset({_S.ACTIVE, _S.PRE_SWITCHOVER, _S.DEVICE, _S.CANCELLING, _S.COMPLETED})

SOURCE_TRANSITIONS: dict[MigrationStatus, frozenset[MigrationStatus]] = {
    _S.NONE: frozenset({_S.SETUP}),
    _S.SETUP: frozenset({_S.ACTIVE, _S.FAILED, _S.CANCELLING}),
    _S.ACTIVE: frozenset({_S.PRE_SWITCHOVER, _S.DEVICE, _S.FAILED, _S.CANCELLING}),
    _S.PRE_SWITCHOVER: frozenset({_S.DEVICE, _S.FAILED, _S.CANCELLING}),
    _S.DEVICE: frozenset({_S.COMPLETED, _S.FAILED, _S.IN_DOUBT, _S.CANCELLING}),
    _S.CANCELLING: frozenset({_S.CANCELLED}),
    _S.COMPLETED: frozenset({_S.SETUP}),
    _S.FAILED: frozenset({_S.SETUP}),
    _S.IN_DOUBT: frozenset({_S.FAILED}),
    _S.CANCELLED: frozenset({_S.SETUP}),
}
"""Where a source may go from each state. A new migration begins at `setup`."""

DESTINATION_TRANSITIONS: dict[MigrationStatus, frozenset[MigrationStatus]] = {
    _S.NONE: frozenset({_S.SETUP}),
    _S.SETUP: frozenset({_S.ACTIVE, _S.FAILED}),
    _S.ACTIVE: frozenset({_S.COMPLETED, _S.FAILED}),
}
"""Where a destination may go from each state; a destination is used once."""
