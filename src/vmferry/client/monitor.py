"""Monitors of VMs, however they are reached: over a socket of their own, or through libvirt."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self

from vmferry.client.manager import Manager
from vmferry.client.qmp_client import DEFAULT_TIMEOUT_S, Event, QmpClient
from vmferry.errors import UsageError

if TYPE_CHECKING:
    from vmferry.client.libvirt_host import LibvirtHost

LIBVIRT = "libvirt:"
"""Begins the address of a libvirt domain's monitor: `libvirt:URI#DOMAIN`."""
_NO_LIBVIRT = "libvirt-python is missing; install libvirt's headers and `pip install 'vmferry[libvirt]'`"


def domain_address(uri: str, domain: str) -> str:
    """Return the address of a libvirt domain's monitor; `domain` is its name or its UUID."""
    return f"{LIBVIRT}{uri}#{domain}"


class Executes(Protocol):
    """What carries out QMP commands."""

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Carry out a command and return its answer.

        Raises CommandError if the monitor refuses it, MonitorError if no answer comes, and among these VmLeftError
        if that is because the VM has migrated.
        """
        ...


class Monitor(Executes, Protocol):
    """What carries out QMP commands one at a time. A context manager that closes it."""

    where: str
    """The address; `open_monitor` opens it once more."""

    @property
    def manager(self) -> Manager | None:
        """Who looks after the VM besides its monitor's clients; None is nobody, as far as the monitor tells."""
        ...

    @property
    def descriptor(self) -> int | None:
        """The file descriptor of a connection that another process may go on with; None if there is none."""
        ...

    @property
    def peer_pid(self) -> int:
        """The VM's process on this host. Raises HostError if that cannot be told for sure."""
        ...

    def execute_out_of_band(self, command: str, arguments: Mapping[str, object]) -> Any:
        """Carry out a command that the VM obeys also while it answers nothing else, if there is such a way.

        Raises CommandError and MonitorError as `execute` does.
        """
        ...

    def take_events(self) -> list[Event]:
        """Return the events so far, and forget them."""
        ...

    def hurry(self) -> None:
        """Wait only briefly for answers from now on, as somebody wants to end."""
        ...

    def __enter__(self) -> Self:
        """Return the monitor."""
        ...

    def __exit__(self, *error: object) -> None:
        """Close it."""
        ...


def open_monitor(
    address: str, timeout_s: float = DEFAULT_TIMEOUT_S, while_waiting: Callable[[], None] = lambda: None
) -> Monitor:
    """Return the monitor at an address of `QmpClient.connect`, or at `libvirt:URI#DOMAIN`.

    `while_waiting` is called at least every 100 ms while an answer is waited for; what it raises ends the waiting.
    Raises UsageError for what is no address, and MonitorError if there is no monitor.
    """
    if not address.startswith(LIBVIRT):
        return QmpClient.connect(address, timeout_s, while_waiting)
    try:
        from vmferry.client.libvirt_monitor import LibvirtMonitor  # an optional dependency
    except ImportError as error:
        raise UsageError(_NO_LIBVIRT) from error
    return LibvirtMonitor(address, timeout_s, while_waiting)


def open_host(uri: str) -> "LibvirtHost":
    """Return a connection to libvirt for what concerns all domains. Raises MonitorError, and UsageError without it."""
    try:
        from vmferry.client.libvirt_host import LibvirtHost  # an optional dependency
    except ImportError as error:
        raise UsageError(_NO_LIBVIRT) from error
    return LibvirtHost(uri)
