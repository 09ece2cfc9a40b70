"""The events that clients may get, and what comes with them (QEMU `qapi/run-state.json`, `migration.json`)."""

from enum import StrEnum

from msgspec import field

from vmferry.migration.status import MigrationStatus
from vmferry.monitor.qapi import QapiStruct


class ShutdownCause(StrEnum):
    """Why a VM ends; QEMU has more reasons."""

    HOST_QMP_QUIT = "host-qmp-quit"
    HOST_SIGNAL = "host-signal"
    GUEST_SHUTDOWN = "guest-shutdown"


class Stop(QapiStruct, frozen=True):
    """The guest was paused."""


class Resume(QapiStruct, frozen=True):
    """The guest runs again."""


class Powerdown(QapiStruct, frozen=True):
    """The guest was asked to power down."""


class Shutdown(QapiStruct, frozen=True):
    """The VM process is about to end; `guest` tells whether the guest wanted it."""

    guest: bool
    reason: ShutdownCause


class GuestPanicAction(StrEnum):
    """What became of a guest that crashed; QEMU has more."""

    PAUSE = "pause"


class GuestPanicked(QapiStruct, frozen=True):
    """The guest has crashed and is stopped."""

    action: GuestPanicAction


class Migration(QapiStruct, frozen=True):
    """A migration changed its status. Only with the capability `events`."""

    status: MigrationStatus


class MigrationPass(QapiStruct, frozen=True):
    """An iteration began; iterations are counted from 1. Only with the capability `events`."""

    pass_: int = field(name="pass")


EVENTS: dict[str, type[QapiStruct]] = {
    "STOP": Stop,
    "RESUME": Resume,
    "POWERDOWN": Powerdown,
    "SHUTDOWN": Shutdown,
    "GUEST_PANICKED": GuestPanicked,
    "MIGRATION": Migration,
    "MIGRATION_PASS": MigrationPass,
}
"""The type of the data of every event."""
