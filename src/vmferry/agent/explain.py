"""Says of every VM that runs here which rule holds for it."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

from vmferry.agent.config import Config
from vmferry.agent.rules import Holding, Rule, Vm, holding
from vmferry.agent.sockets import identify, sockets_in
from vmferry.client.monitor import open_host, open_monitor
from vmferry.errors import VmferryError

_Found = Iterator[tuple[str, Vm]]
_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Explained:
    """One VM and its rule."""

    vm: Vm
    place: str
    """Where it was found: libvirt's URI, or its socket."""
    holding: Holding


def explain(config: Config) -> Iterator[Explained | str]:
    """Yield each VM with its rule, and a line for each place that could not be asked."""
    for uri in config.libvirt:
        yield from _explained(_domains(uri), config.rule)
    for directory in config.sockets:
        try:
            paths = list(sockets_in(directory))
        except VmferryError as error:
            yield str(error)
            continue
        for path in paths:
            yield from _explained(_behind(path), config.rule)


def _explained(found: _Found, rules: Sequence[Rule]) -> Iterator[Explained | str]:
    try:
        for place, vm in found:
            yield Explained(vm, place, holding(rules, vm))
    except VmferryError as error:
        yield str(error)


def _domains(uri: str) -> _Found:
    with closing(open_host(uri)) as host:
        for domain in host.domains():
            yield uri, Vm(domain.name, domain.uuid, host.tags(domain))


def _behind(path: str) -> _Found:
    with open_monitor(f"unix:{path}", _TIMEOUT_S) as monitor:
        yield path, identify(monitor, path)
