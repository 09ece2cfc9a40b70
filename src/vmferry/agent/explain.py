"""Finds the VMs that run here, and says of each which rule holds for it."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

from vmferry.agent.config import Config
from vmferry.agent.rules import Holding, Vm, holding
from vmferry.agent.sockets import identify, sockets_in
from vmferry.client.monitor import domain_address, open_host, open_monitor
from vmferry.control.asking.run_states import run_state
from vmferry.errors import VmferryError

_TIMEOUT_S = 5.0
_AT_ONCE = 64


@dataclass(frozen=True)
class FoundVm:
    """A VM that runs here."""

    vm: Vm
    address: str
    """Of its monitor."""
    state: str | None
    """QEMU's or libvirt's word for whether the guest runs; None where nobody has asked."""


@dataclass(frozen=True)
class Explained:
    """One VM and its rule."""

    vm: Vm
    holding: Holding


def explain(config: Config) -> Iterator[Explained | str]:
    """Yield each VM with its rule, and a line for each place that could not be asked."""
    for found in (*find_domains_of(config.libvirt), *_behind_sockets(config.sockets)):
        yield found if isinstance(found, str) else Explained(found.vm, holding(config.rule, found.vm))


def find_domains_of(uris: Sequence[str]) -> Iterator[FoundVm | str]:
    """Yield the domains that libvirt tells of at each URI, and a line for each that does not answer."""
    for uri in uris:
        try:
            with closing(open_host(uri)) as host:
                for domain in host.domains():
                    vm = Vm(domain.name, domain.uuid, host.tags(domain))
                    yield FoundVm(vm, domain_address(uri, domain.uuid), domain.state)
        except VmferryError as error:
            yield str(error)


def _behind_sockets(directories: Sequence[str]) -> Iterator[FoundVm | str]:
    """Yield the VMs in their order; all are asked at once, as many may not answer."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for directory in directories:
            try:
                paths = list(sockets_in(directory))
            except VmferryError as error:
                yield str(error)
                continue
            yield from pool.map(_behind_socket, paths)


def _behind_socket(path: str) -> FoundVm | str:
    try:
        with open_monitor(f"unix:{path}", _TIMEOUT_S) as monitor:
            return FoundVm(identify(monitor, path), f"unix:{path}", run_state(monitor))
    except VmferryError as error:
        return str(error)
