"""The monitor of a libvirt domain: QMP passed through by libvirt, beside what libvirt itself says of the domain."""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Self

import libvirt
import libvirt_qemu
import msgspec

from vmferry.client.libvirt_connection import LibvirtConnection
from vmferry.client.libvirt_domain import MIGRATED, LibvirtDomain
from vmferry.client.qmp_client import DEFAULT_TIMEOUT_S, MAX_KEPT_EVENTS, Event, result_of
from vmferry.client.vm_process import process_of_domain
from vmferry.errors import MonitorError, VmLeftError


class LibvirtMonitor:
    """Passes QMP commands through libvirt. A context manager that closes the connection to libvirt."""

    def __init__(
        self,
        address: str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """Find the domain of `libvirt:URI#DOMAIN`, by its name or UUID. Without URI it is libvirt's default.

        No answer may take longer than `timeout_s`; `while_waiting` is as with `open_monitor`. Raises MonitorError if
        libvirt cannot be reached, has no such domain or gives no access to it.
        """
        self.where = address
        uri, _, name = address.partition(":")[2].partition("#")
        self._events: deque[Event] = deque(maxlen=MAX_KEPT_EVENTS)
        self._connection = LibvirtConnection(uri, timeout_s, while_waiting)
        try:
            self.manager = LibvirtDomain(self._connection, name)
            self._listening = self._connection.call("events of QEMU", self._listen)
        except libvirt.libvirtError as error:
            self._connection.close()
            raise MonitorError(_refusal(self._connection.where, name, error)) from error
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def descriptor(self) -> None:
        """None: the connection is libvirt's own affair."""
        return None

    @property
    def peer_pid(self) -> int:
        """The domain's QEMU. Raises HostError if it does not run on this host."""
        cpus = self.execute("query-cpus-fast")
        return process_of_domain(cpus[0]["thread-id"] if cpus else 0, self.manager.uuid)

    def close(self) -> None:
        """Close the connection to libvirt, without waiting long for a libvirtd that hangs."""
        self._connection.hurry()
        with suppress(libvirt.libvirtError, MonitorError):
            self._connection.call("the end of events", self._ignore)
        self.manager.close()
        self._connection.close()

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Carry out a command and return its answer. Raises CommandError, VmLeftError, MonitorError."""
        request = msgspec.json.encode({"execute": command, "arguments": arguments or {}}).decode()
        try:
            answer = self._connection.call(
                command, lambda: libvirt_qemu.qemuMonitorCommand(self.manager.raw, request, 0)
            )
        except libvirt.libvirtError as error:
            raise self._why_gone(command, error) from error
        try:
            return result_of(command, msgspec.json.decode(answer, type=dict[str, Any]))
        except (msgspec.DecodeError, ValueError) as error:
            raise MonitorError(f"what {self.where} answers to {command} is no QMP: {error}") from error

    def execute_out_of_band(self, command: str, arguments: Mapping[str, object]) -> Any:
        """Raise MonitorError: libvirt passes nothing on out of band."""
        raise MonitorError(f"libvirt does not pass {command} on while the VM answers nothing else")

    def take_events(self) -> list[Event]:
        """Return the events so far, and forget them."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def hurry(self) -> None:
        """Wait only briefly for answers from now on."""
        self._connection.hurry()

    def _listen(self) -> Any:
        """Return the number by which this is ended."""
        return libvirt_qemu.qemuMonitorEventRegister(
            self._connection.raw, self.manager.raw, None, lambda *event: self._keep(*event[2:6]), None, 0
        )

    def _ignore(self) -> None:
        libvirt_qemu.qemuMonitorEventDeregister(self._connection.raw, self._listening)

    def _keep(self, name: str, seconds: int, microseconds: int, details: str | None) -> None:
        self._events.append(Event(name, msgspec.json.decode(details or "{}"), seconds + microseconds / 1e6))

    def _why_gone(self, command: str, error: libvirt.libvirtError) -> MonitorError:
        """Tell a libvirtd that is gone, and a domain that has migrated or ended, from a command that failed."""
        if not self._connection.alive:
            return MonitorError(f"{self._connection.where} is gone: {error}")
        match self.manager.how_it_ended():
            case None:
                return MonitorError(f"the monitor at {self.where} does not answer {command}: {error}")
            case end:
                kind = VmLeftError if end == MIGRATED else MonitorError
                return kind(f"the domain at {self.where} {end}")


def _refusal(where: str, name: str, error: libvirt.libvirtError) -> str:
    if error.get_error_code() == libvirt.VIR_ERR_OPERATION_DENIED:
        return f"{where} is open for reading only, but QEMU's monitor needs one for writing: libvirt-sock, for instance"
    return f"{where} cannot give access to domain '{name}': {error}"
