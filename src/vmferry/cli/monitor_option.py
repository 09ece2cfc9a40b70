"""The options that say where a VM's monitor is."""

import functools
from collections.abc import Callable

import click

from vmferry.client.monitor import LIBVIRT
from vmferry.errors import UsageError

_Command = Callable[..., None]


def monitor_options(command: _Command) -> _Command:
    """Add `--qmp`, `--libvirt` and `--connect` to a command, which gets the `address` of the monitor instead."""
    return _with_options(command, required=True)


def optional_monitor_options(command: _Command) -> _Command:
    """Add the same to a command that has another source too: `address` is None if none of them is given."""
    return _with_options(command, required=False)


def _with_options(command: _Command, *, required: bool) -> _Command:
    @click.option("--qmp", help="Monitor of the source VM: unix:PATH or tcp:HOST:PORT.")
    @click.option("--libvirt", "domain", metavar="DOMAIN", help="Instead of --qmp: a domain of libvirt, name or UUID.")
    @click.option("--connect", "libvirt_uri", metavar="URI", help="Where libvirt is, such as qemu:///system.")
    @functools.wraps(command)
    def with_address(
        *arguments: object, qmp: str | None, domain: str | None, libvirt_uri: str | None, **others: object
    ) -> None:
        asked = required or qmp or domain or libvirt_uri
        command(*arguments, address=_address(qmp, domain, libvirt_uri) if asked else None, **others)

    return with_address


def _address(qmp: str | None, domain: str | None, uri: str | None) -> str:
    if bool(qmp) == bool(domain):
        raise UsageError("give the VM's monitor, either --qmp ADDRESS or --libvirt DOMAIN")
    if uri and not domain:
        raise UsageError("--connect is the URI of libvirt; give --libvirt DOMAIN as well")
    return qmp or f"{LIBVIRT}{uri or ''}#{domain}"
