"""What libvirt tells of all domains of a host: which run, how they are tagged, and that one of them migrates.

No libvirt event says that a migration begins, but QEMU's MIGRATION event does not reach everybody either. On the source
the first that comes is MIGRATION_ITERATION, some ms after it begins; it comes for `save` and snapshots, too.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

import libvirt

from vmferry.client.bounded_calls import Returned
from vmferry.client.libvirt_connection import LibvirtConnection
from vmferry.client.qmp_client import DEFAULT_TIMEOUT_S
from vmferry.errors import MonitorError

METADATA_URI = "urn:vmferry:agent"
"""Under which a domain's tags stand in its metadata: `<agent tags="one two"/>`."""
MAX_METADATA_BYTES = 64 << 10
_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_BLOCKED: "idle",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "in shutdown",
    libvirt.VIR_DOMAIN_SHUTOFF: "shut off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "pmsuspended",
}


@dataclass(frozen=True)
class ListedDomain:
    """A domain that runs."""

    name: str
    uuid: str
    state: str | None = None
    """Whether it runs, in the words of `virsh domstate`; None if that was not asked, or is not told."""


class LibvirtHost:
    """A connection for what concerns all domains. A call that hangs holds up nobody but who asks here."""

    def __init__(self, uri: str) -> None:
        """Connect. Raises MonitorError."""
        self._connection = LibvirtConnection(uri, DEFAULT_TIMEOUT_S)
        self.where = self._connection.where

    @property
    def alive(self) -> bool:
        """False once libvirtd is gone, or stands still."""
        return self._connection.alive

    def domains(self) -> list[ListedDomain]:
        """Return the domains that run, with their states, waiting for none that is busy. Raises MonitorError."""
        ask = self._connection.raw.getAllDomainStats
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        told = self._call("the states of domains", lambda: ask(libvirt.VIR_DOMAIN_STATS_STATE, flags))
        return [replace(_listed(domain), state=_STATES.get(stats.get("state.state"))) for domain, stats in told]

    def busy_domains(self) -> list[ListedDomain]:
        """Return the domains that have a job, such as a migration, now. Raises MonitorError."""
        return [_listed(domain) for domain in self._active() if self._is_busy(domain)]

    def tags(self, domain: ListedDomain) -> frozenset[str]:
        """Return the tags of a domain. Raises MonitorError."""
        lookup = self._connection.raw.lookupByUUIDString
        return frozenset(self._call("a domain's metadata", lambda: _tags_of(lookup(domain.uuid))))

    def listen(self, note: Callable[[ListedDomain], None]) -> None:
        """Call `note`, in a thread of libvirt's, whenever a pass over a domain's memory begins. Raises MonitorError."""
        self._call("events", lambda: self._register(lambda domain, count: note(_listed(domain))))

    def close(self) -> None:
        """Close the connection; what was listened to is told no more."""
        self._connection.close()

    def _register(self, note: Callable[[Any, int], None]) -> None:
        self._connection.raw.domainEventRegisterAny(
            None,
            libvirt.VIR_DOMAIN_EVENT_ID_MIGRATION_ITERATION,
            lambda connection, domain, iteration, opaque: note(domain, iteration),
            None,
        )

    def _active(self) -> list[Any]:
        active = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        return list(self._call("which domains run", lambda: self._connection.raw.listAllDomains(active)))

    def _is_busy(self, domain: Any) -> bool:
        with suppress(libvirt.libvirtError):  # it has ended meanwhile
            return bool(self._connection.call("which job there is", domain.jobStats)["type"])
        return False

    def _call(self, what: str, function: Callable[[], Returned]) -> Returned:
        try:
            return self._connection.call(what, function)
        except libvirt.libvirtError as error:
            raise MonitorError(f"{self.where} does not tell {what}: {error}") from error


def _tags_of(domain: Any) -> frozenset[str]:
    """Return the tags in a domain's metadata. Raises libvirtError."""
    try:
        text = str(domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, METADATA_URI))
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return frozenset()
        raise
    return frozenset(_tags_in(text))


def _tags_in(text: str) -> Iterator[str]:
    """Yield the words of the attribute `tags`; what is no such element has none."""
    if len(text) <= MAX_METADATA_BYTES:
        with suppress(ElementTree.ParseError):
            yield from ElementTree.fromstring(text).get("tags", "").split()


def _listed(domain: Any) -> ListedDomain:
    return ListedDomain(domain.name(), domain.UUIDString())
