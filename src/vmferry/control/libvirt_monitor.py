"""The monitor of a libvirt domain: QMP passed through by libvirt, beside what libvirt itself says to the domain.

libvirt has no limit of time for a command, but waits 30 s at most for others that work on the domain. It ends a
domain's QEMU as soon as it has migrated, so the last states of a migration may never be seen in it; why the domain
has ended is seen in the events of the domain, which come in a thread.
"""

import functools
import threading
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import libvirt
import libvirt_qemu
import msgspec

from vmferry.control.qmp_client import MAX_KEPT_EVENTS, Event, result_of
from vmferry.errors import MonitorError, VmLeftError

_END_WAIT_S = 2.0
_PROC = Path("/proc")


class LibvirtMonitor:
    """Passes QMP commands through libvirt. A context manager that closes the connection to libvirt."""

    def __init__(self, address: str) -> None:
        """Find the domain of `libvirt:URI#DOMAIN`, by its name or UUID. Without URI it is libvirt's default.

        Raises MonitorError if libvirt cannot be reached or has no such domain.
        """
        self.where = address
        uri, _, domain = address.partition(":")[2].partition("#")
        self._events: deque[Event] = deque(maxlen=MAX_KEPT_EVENTS)
        self._ended = threading.Event()
        self._end_detail: int | None = None
        _prepare_libvirt()
        try:
            self._connection = libvirt.open(uri or None)
        except libvirt.libvirtError as error:
            raise MonitorError(f"cannot reach libvirt at '{uri or 'its default URI'}': {error}") from error
        try:
            self._domain = _find(self._connection, domain)
            self._callbacks = self._listen()
        except libvirt.libvirtError as error:
            self._connection.close()
            raise MonitorError(f"libvirt cannot give access to domain '{domain}': {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def peer_pid(self) -> int | None:
        """The domain's QEMU, if it is on this host; of another host's there is no process with its UUID here."""
        cpus = self.execute("query-cpus-fast")
        thread_id = cpus[0]["thread-id"] if cpus else 0
        try:
            words = (_PROC / str(thread_id) / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return None
        return int(thread_id) if self._domain.UUIDString().encode() in words else None

    def close(self) -> None:
        """Close the connection to libvirt."""
        for deregister, number in self._callbacks:
            deregister(number)
        self._callbacks = []
        self._connection.close()

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Carry out a command and return its answer. Raises CommandError, VmLeftError, MonitorError."""
        request = msgspec.json.encode({"execute": command, "arguments": arguments or {}}).decode()
        try:
            answer = libvirt_qemu.qemuMonitorCommand(self._domain, request, 0)
        except libvirt.libvirtError as error:
            raise self._why_gone(command, error) from error
        try:
            return result_of(command, msgspec.json.decode(answer, type=dict[str, Any]))
        except (msgspec.DecodeError, ValueError) as error:
            raise MonitorError(f"what {self.where} answers to {command} is no QMP: {error}") from error

    def take_events(self) -> list[Event]:
        """Return the events so far, and forget them."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def hurry(self) -> None:
        """Change nothing: libvirt knows no limit of time."""

    def _listen(self) -> list[tuple[Any, int]]:
        """Have events kept. Returns what is to be called, with what, to end that."""
        monitor = libvirt_qemu.qemuMonitorEventRegister(
            self._connection, self._domain, None, lambda *event: self._keep(*event[2:6]), None, 0
        )
        lifecycle = self._connection.domainEventRegisterAny(
            self._domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda *event: self._note_end(*event[2:4]), None
        )
        return [
            (functools.partial(libvirt_qemu.qemuMonitorEventDeregister, self._connection), monitor),
            (self._connection.domainEventDeregisterAny, lifecycle),
        ]

    def _keep(self, name: str, seconds: int, microseconds: int, details: str | None) -> None:
        self._events.append(Event(name, msgspec.json.decode(details or "{}"), seconds + microseconds / 1e6))

    def _note_end(self, event: int, detail: int) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            self._end_detail = detail
            self._ended.set()

    def _why_gone(self, command: str, error: libvirt.libvirtError) -> MonitorError:
        """Tell a domain that has migrated from a command that failed otherwise."""
        if not self._runs():
            self._ended.wait(_END_WAIT_S)
        if self._end_detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED:
            return VmLeftError(f"the domain at {self.where} has migrated")
        return MonitorError(f"the monitor at {self.where} does not answer {command}: {error}")

    def _runs(self) -> bool:
        try:
            return bool(self._domain.isActive())
        except libvirt.libvirtError:
            return False


@functools.cache
def _prepare_libvirt() -> None:
    """Keep libvirt from printing errors, which are exceptions as well, and take care of events and keep-alives."""
    libvirt.registerErrorHandler(lambda *_: None, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_dispatch_events, name="libvirt events", daemon=True).start()


def _dispatch_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _find(connection: libvirt.virConnect, domain: str) -> libvirt.virDomain:
    try:
        return connection.lookupByName(domain)
    except libvirt.libvirtError:
        try:
            return connection.lookupByUUIDString(domain)
        except libvirt.libvirtError:
            pass
        raise
