"""The VMs of a host as its agent knows them: where each was found, whether it runs, and which rule holds for it.

libvirt is asked once in some seconds at most, however many want to know. A VM behind a socket is one that the agent
attends to, and was seen last by whoever does that.
"""

import threading
import time
from collections.abc import Iterator, Sequence

import msgspec

from vmferry.agent.actions import UnknownError
from vmferry.agent.attendants import Attendants
from vmferry.agent.explain import FoundVm, find_domains_of
from vmferry.agent.rules import Mode
from vmferry.bounds import one_line

_FRESH_S = 2.0


class HostVm(msgspec.Struct, frozen=True, kw_only=True):
    """A VM."""

    name: str
    uuid: str
    address: str
    """Of its monitor, which tells it from all others."""
    state: str | None
    """QEMU's or libvirt's word for whether it runs; None where that is not known."""
    mode: Mode
    rule: str
    """Which rule holds, and why."""
    orders: str
    """What that rule says is to be done with its migrations."""
    live: str | None
    """The key of its migration that runs; None if none does."""


class HostVms(msgspec.Struct, frozen=True, kw_only=True):
    """All VMs that are known."""

    vms: list[HostVm]
    not_told: list[str]
    """A line for each place that could not be asked."""


class Roster:
    """Knows the VMs of one agent's host."""

    def __init__(self, uris: Sequence[str], attendants: Attendants) -> None:
        """`uris` are those of libvirt whose domains are looked after."""
        self._uris = uris
        self._attendants = attendants
        self._lock = threading.Lock()
        self._domains: list[FoundVm | str] = []
        self._asked_s = -_FRESH_S

    def now(self) -> HostVms:
        """Return all VMs."""
        found = [*self._domains_now(), *self._behind_sockets()]
        live = {one.recording.facts.address: one.key for one in self._attendants.followers.live}
        vms = [self._told(one, live.get(one.address)) for one in found if isinstance(one, FoundVm)]
        return HostVms(
            vms=sorted(vms, key=lambda vm: (vm.name, vm.address)),
            not_told=[one for one in found if isinstance(one, str)],
        )

    def find(self, what: str) -> HostVm:
        """Return the VM that has this name, UUID or address. Raises UnknownError if none has, or several have."""
        found = [vm for vm in self.now().vms if what in (vm.name, vm.uuid, vm.address)]
        if not found:
            raise UnknownError(f"no VM here is '{one_line(what)}'")
        if len(found) > 1:
            addresses = ", ".join(vm.address for vm in found)
            raise UnknownError(f"several VMs are '{one_line(what)}'; name one by its address: {addresses}")
        return found[0]

    def _domains_now(self) -> list[FoundVm | str]:
        with self._lock:
            if time.monotonic() - self._asked_s >= _FRESH_S:
                self._domains = list(find_domains_of(self._uris))
                self._asked_s = time.monotonic()
            return self._domains

    def _behind_sockets(self) -> Iterator[FoundVm]:
        for path, one in list(self._attendants.attended.items()):
            yield FoundVm(one.vm, f"unix:{path}", one.state)

    def _told(self, found: FoundVm, live: str | None) -> HostVm:
        held = self._attendants.followers.rule_for(found.vm)
        return HostVm(
            name=found.vm.name,
            uuid=found.vm.uuid,
            address=found.address,
            state=found.state,
            mode=held.rule.mode,
            rule=str(held),
            orders=", ".join(held.rule.orders()),
            live=live,
        )
