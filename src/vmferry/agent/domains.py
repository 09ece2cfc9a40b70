"""Finds the migrations of libvirt's domains by its events; only a domain that migrates is asked anything."""

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from vmferry.agent.attendants import Attendants
from vmferry.agent.rules import Mode, Vm
from vmferry.cancel import CancelToken
from vmferry.client.manager import MIGRATION
from vmferry.client.monitor import Monitor, domain_address, open_host, open_monitor
from vmferry.control.asking.progress import Progress, ask
from vmferry.errors import MonitorError

if TYPE_CHECKING:
    from vmferry.client.libvirt_host import LibvirtHost, ListedDomain

_LOOK_S = 0.5
"""How often it is looked whether libvirtd is still there."""
_RETRY_S = 1.0
_JOB_POLL_S = 0.1


def find_domains(uri: str, attendants: Attendants, cancel: CancelToken) -> None:
    """Notice migrations until the end, whatever becomes of libvirtd meanwhile."""
    told = ""
    while not attendants.stop.is_set():
        try:
            with closing(open_host(uri)) as host:
                attendants.log.info(f"{host.where} is listened to", libvirt=uri)
                told = ""
                _listen(uri, host, attendants)
                if not attendants.stop.is_set():
                    attendants.log.warn(f"{host.where} is gone; it is connected to again once it is back", libvirt=uri)
        except MonitorError as error:
            if str(error) != told:
                told = str(error)
                attendants.log.warn(f"{told}; that is tried again every {_RETRY_S:g} s", libvirt=uri)
        attendants.stop.wait(_RETRY_S)


def _listen(uri: str, host: "LibvirtHost", attendants: Attendants) -> None:
    """Have every domain attended to that begins to migrate, or does so already, as long as libvirtd is there."""

    def notice(domain: "ListedDomain") -> None:
        attendants.begin(domain.uuid, partial(_attend, uri, host, domain, attendants))

    host.listen(notice)
    for domain in host.busy_domains():
        notice(domain)
    while host.alive and not attendants.stop.wait(_LOOK_S):
        pass


def _attend(uri: str, host: "LibvirtHost", domain: "ListedDomain", attendants: Attendants, cancel: CancelToken) -> None:
    vm = Vm(domain.name, domain.uuid, host.tags(domain))
    if attendants.followers.rule_for(vm).rule.mode is Mode.IGNORE:
        return
    address = domain_address(uri, domain.uuid)
    with open_monitor(address, while_waiting=cancel.check) as monitor:
        progress = _await_migration(monitor, attendants, cancel)
    if progress:
        attendants.followers.follow(address, vm, progress)


def _await_migration(monitor: Monitor, attendants: Attendants, cancel: CancelToken) -> Progress | None:
    """Wait until a migration runs; None if what libvirt does with the domain is something else, and over."""
    assert monitor.manager
    while job := monitor.manager.job():
        if job == MIGRATION and (progress := ask(monitor)).running:
            return progress
        cancel.check()
        attendants.stop.wait(_JOB_POLL_S)
    return None
