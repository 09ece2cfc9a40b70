"""What is made of libvirt's events, in an order that a real one seldom sends them in."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.libvirt
libvirt = pytest.importorskip("libvirt")

from vmferry.client import libvirt_domain  # noqa: E402  (needs libvirt)
from vmferry.client.libvirt_domain import LibvirtDomain  # noqa: E402
from vmferry.client.manager import Completion  # noqa: E402

MIGRATION_OUT = libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT


class Connection:
    """Libvirt with one domain, whose events a test sends."""

    where = "libvirt"
    alive = True

    def __init__(self) -> None:
        self.raw = self
        self.operation = MIGRATION_OUT
        self._callbacks: dict[int, Callable[..., None]] = {}

    def call(self, what: str, function: Callable[[], Any]) -> Any:
        return function()

    def lookupByName(self, name: str) -> "Connection":  # noqa: N802  (libvirt's name)
        return self

    def UUIDString(self) -> str:  # noqa: N802  (libvirt's name)
        return "1"

    def jobStats(self) -> dict[str, int]:  # noqa: N802  (libvirt's name)
        return {"type": libvirt.VIR_DOMAIN_JOB_UNBOUNDED, "operation": self.operation}

    def domainEventDeregisterAny(self, event: int) -> None:  # noqa: N802  (libvirt's name)
        del self._callbacks[event]

    def domainEventRegisterAny(  # noqa: N802  (libvirt's name)
        self, domain: object, event: int, callback: Callable[..., None], opaque: None
    ) -> int:
        self._callbacks[event] = callback
        return event

    def live(self, event: int, detail: int) -> None:
        self._callbacks[libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE](self, self, event, detail, None)

    def complete(self, **figures: int) -> None:
        self._callbacks[libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED](self, self, figures, None)


@pytest.fixture
def connection() -> Connection:
    return Connection()


@pytest.fixture
def domain(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> LibvirtDomain:
    monkeypatch.setattr(libvirt_domain, "_COMPLETION_WAIT_S", 0.0)
    domain = LibvirtDomain(connection, "busy")  # type: ignore[arg-type]
    assert domain.job() == "migration"
    return domain


def test_a_guest_that_people_resume_has_not_stayed(domain: LibvirtDomain, connection: Connection) -> None:
    connection.live(libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_UNPAUSED)
    assert domain.completion() == Completion(arrived=None)
    connection.complete(operation=MIGRATION_OUT, downtime=2257)
    assert domain.completion() == Completion(arrived=True, downtime_ms=2257)


def test_a_guest_that_libvirt_resumes_has_stayed_until_the_next_migration(
    domain: LibvirtDomain, connection: Connection
) -> None:
    connection.live(libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_RESUMED_MIGRATED)
    assert domain.completion() == Completion(arrived=False)
    assert domain.job() == "migration"
    assert domain.completion() == Completion(arrived=None)


def test_figures_of_other_jobs_are_not_those_of_the_migration(domain: LibvirtDomain, connection: Connection) -> None:
    connection.complete(operation=libvirt.VIR_DOMAIN_JOB_OPERATION_SAVE, downtime=7)
    assert domain.completion() == Completion(arrived=None)


def test_without_the_figures_the_end_of_the_domain_tells_that_it_has_arrived(
    domain: LibvirtDomain, connection: Connection
) -> None:
    connection.live(libvirt.VIR_DOMAIN_EVENT_STOPPED, libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED)
    assert domain.completion() == Completion(arrived=True, downtime_ms=None)


def test_a_job_that_is_not_known_is_no_migration(domain: LibvirtDomain, connection: Connection) -> None:
    connection.operation = 99
    assert domain.job() == "unknown"
