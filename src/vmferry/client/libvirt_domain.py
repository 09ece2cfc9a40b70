"""A domain as libvirt sees it: its job, how that ended, and why the domain is gone.

libvirt ends a domain's QEMU as soon as it has migrated, so the last states of a migration may never be seen in it.
What became of it comes as events, in a thread, a second or two after QEMU has completed.
"""

import functools
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import libvirt

from vmferry.client.libvirt_connection import LibvirtConnection
from vmferry.client.manager import MIGRATION, Completion
from vmferry.errors import MonitorError

_COMPLETION_WAIT_S = 10.0
_END_WAIT_S = 2.0
_POLL_S = 0.05
_JOBS = {
    libvirt.VIR_DOMAIN_JOB_OPERATION_START: "start",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE: "save",
    libvirt.VIR_DOMAIN_JOB_OPERATION_RESTORE: "restore",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN: "incoming migration",
    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT: MIGRATION,
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT: "snapshot",
    libvirt.VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT: "snapshot-revert",
    libvirt.VIR_DOMAIN_JOB_OPERATION_DUMP: "dump",
    libvirt.VIR_DOMAIN_JOB_OPERATION_BACKUP: "backup",
}
MIGRATED = "has migrated"
_ENDS = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: "has shut down",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: "was destroyed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "has crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: MIGRATED,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: "was saved",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "has failed",
}


class LibvirtDomain:
    """The `Manager` of a domain."""

    name = "libvirt"
    restores = frozenset(
        {
            "block-incremental",
            "compress-level",
            "compress-threads",
            "cpu-throttle-increment",
            "cpu-throttle-initial",
            "decompress-threads",
            "downtime-limit",
            "max-bandwidth",
            "max-postcopy-bandwidth",
            "multifd-channels",
            "multifd-compression",
            "multifd-zlib-level",
            "multifd-zstd-level",
            "tls-creds",
            "tls-hostname",
            "xbzrle-cache-size",
        }
    )
    """What libvirt itself sets back (`src/qemu/qemu_migration_params.c`, `qemuMigrationParamsReset`)."""

    def __init__(self, connection: LibvirtConnection, name: str) -> None:
        """Find a domain by its name or UUID, and listen to its events. Raises libvirtError, MonitorError."""
        self.migrates = False
        self._connection = connection
        self._end: int | None = None
        self._stays = False
        """True once libvirt lets the domain run on here, after a migration that failed at its end."""
        self._completion_wait_s = _COMPLETION_WAIT_S
        self._completed: dict[str, Any] | None = None
        """The figures of the last migration."""
        self.raw = connection.call("which domains there are", lambda: _find(connection.raw, name))
        self.uuid = str(self.raw.UUIDString())
        self._deregister = [
            self._listen(libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._note_life),
            self._listen(libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, self._note_completed),
        ]

    def job(self) -> str | None:
        """Return the word for the operation of the job that is under way."""
        try:
            statistics = self._connection.call("which job there is", self.raw.jobStats)
        except libvirt.libvirtError as error:
            raise MonitorError(f"{self._connection.where} does not tell the domain's job: {error}") from error
        operation = statistics.get(libvirt.VIR_DOMAIN_JOB_OPERATION, libvirt.VIR_DOMAIN_JOB_OPERATION_UNKNOWN)
        job = _JOBS.get(operation, "unknown") if statistics["type"] else None
        if job == MIGRATION:
            self.migrates, self._stays = True, False
        return job

    def completion(self) -> Completion:
        """Wait for the event that has the figures, or the one that says that the domain runs on here."""
        if not self.migrates:
            return Completion()
        self._wait_until(lambda: self._completed is not None or self._stays, self._completion_wait_s)
        self._completion_wait_s = 0.0  # what has not come will not
        figures = self._completed or {}
        left = bool(figures) or self._end == libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED
        return Completion(
            arrived=left or (False if self._stays else None),
            downtime_ms=figures.get(libvirt.VIR_DOMAIN_JOB_DOWNTIME),
        )

    def how_it_ended(self) -> str | None:
        """Return how the domain has ended here, such as `has migrated`; None if it has not, as far as libvirt tells."""
        if not self._is_active():
            self._wait_until(lambda: self._end is not None, _END_WAIT_S)
        return None if self._end is None else _ENDS.get(self._end, "has ended")

    def close(self) -> None:
        """Listen no more."""
        with suppress(libvirt.libvirtError, MonitorError):
            for deregister in self._deregister:
                self._connection.call("the end of events", deregister)

    def _listen(self, event: int, note: Callable[..., None]) -> Callable[[], object]:
        """Listen to the events of the domain, and return what ends that."""
        register = functools.partial(
            self._connection.raw.domainEventRegisterAny, self.raw, event, lambda *told: note(*told[2:-1]), None
        )
        number = self._connection.call("what happens", register)
        return functools.partial(self._connection.raw.domainEventDeregisterAny, number)

    def _note_life(self, event: int, detail: int) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self._end = detail
        elif (event, detail) == (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED):
            self._stays = True  # others are people who resume what they had suspended

    def _note_completed(self, figures: dict[str, Any]) -> None:
        if figures.get(libvirt.VIR_DOMAIN_JOB_OPERATION) == libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
            self._completed = figures

    def _is_active(self) -> bool:
        try:
            return bool(self._connection.call("whether the domain runs", self.raw.isActive))
        except (libvirt.libvirtError, MonitorError):
            return False

    def _wait_until(self, condition: Callable[[], bool], limit_s: float) -> None:
        """Wait for what events bring, as long as they can come."""
        end_s = time.monotonic() + limit_s
        while not condition() and self._connection.alive and time.monotonic() < end_s:
            time.sleep(_POLL_S)


def _find(connection: Any, domain: str) -> Any:
    try:
        return connection.lookupByName(domain)
    except libvirt.libvirtError:
        with suppress(libvirt.libvirtError):
            return connection.lookupByUUIDString(domain)
        raise
