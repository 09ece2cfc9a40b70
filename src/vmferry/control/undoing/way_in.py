"""How the guard reaches the monitor of a VM: over the connection that was the driver's, or by one of its own.

What speaks QMP is imported when it is needed: most guards have nothing to say, and starting one must not take long.
"""

import errno
import functools
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from vmferry.client.processes import Thread
from vmferry.errors import HostError, MonitorError

if TYPE_CHECKING:
    from vmferry.client.inherited_monitor import InheritedMonitor
    from vmferry.client.monitor import Monitor

_TIMEOUT_S = 5.0
Connect = Callable[[str, float], "Monitor"]
"""Opens the monitor at an address, whose answers may take no longer than some seconds. Raises MonitorError."""


class WayIn:
    """The way to the monitor of one VM."""

    def __init__(
        self, address: str, descriptor: int | None, process: Thread | None, connect: "Connect | None" = None
    ) -> None:
        """`descriptor` is the driver's connection, and `process` the VM on this host; None if it is not known."""
        self._address = address
        self._descriptor = descriptor
        self._process = process
        self._connect = connect or open_way_in

    @property
    def vm_is_gone(self) -> bool:
        """True if the VM has ended: its process has, or nobody listens at its socket on this host any more."""
        if self._process:
            return not self._process.alive
        return self._inherited is None and _nobody_listens(self._address)

    @property
    def vm_is_known(self) -> bool:
        """True if it can be told whether the VM has ended."""
        return self._process is not None

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        """Carry out a command. Raises CommandError if the VM refuses it, and MonitorError if it does not answer."""
        if self._inherited:
            return self._inherited.execute(command, arguments or {}, _TIMEOUT_S)
        if self.vm_is_gone:
            raise MonitorError("the VM is gone")
        with self._connect(self._address, _TIMEOUT_S) as monitor:
            if self._process and vm_process(monitor) != self._process:
                raise MonitorError(f"another VM answers at {self._address}")
            return monitor.execute(command, arguments)

    def let_go(self) -> None:
        """Leave the monitor to others: from now on each command has a connection of its own."""
        if self._inherited:
            self._inherited.close()

    @functools.cached_property
    def _connection(self) -> "InheritedMonitor | None":
        if self._descriptor is None:
            return None
        from vmferry.client.inherited_monitor import InheritedMonitor

        return InheritedMonitor(self._descriptor)

    @property
    def _inherited(self) -> "InheritedMonitor | None":
        """The driver's connection, unless it is gone."""
        return self._connection if self._connection and not self._connection.gone else None

    def as_shell(self, command: str) -> str:
        """Return how a person sends a QMP command, which is quoted."""
        from vmferry.client.monitor import LIBVIRT

        if self._address.startswith(LIBVIRT):
            uri, _, domain = self._address.removeprefix(LIBVIRT).partition("#")
            return f"virsh {f'-c {uri} ' if uri else ''}qemu-monitor-command {domain} {command}"
        return f"send {command} to {self._address}"


def open_way_in(address: str, timeout_s: float) -> "Monitor":
    """Make a connection of the guard's own, as `open_monitor` does."""
    from vmferry.client.monitor import open_monitor

    return open_monitor(address, timeout_s)


def vm_process(monitor: "Monitor") -> Thread | None:
    """Return the VM's process on this host; None if it is not certain."""
    try:
        return Thread.of(monitor.peer_pid)
    except (HostError, MonitorError):
        return None


def _nobody_listens(address: str) -> bool:
    """True for a unix socket that nobody serves. Elsewhere only the way there may be broken."""
    kind, _, path = address.partition(":")
    if kind != "unix":
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) in (errno.ENOENT, errno.ECONNREFUSED)
