"""Why a monitor says nothing, as far as this host can tell: its process is stopped, or serves another client.

QEMU's monitors serve one client at a time; others wait in the queue of the listening socket, unaccepted and ungreeted.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

from vmferry.client.processes import PROC, status_field
from vmferry.client.vm_process import listener_of

_STOPPED = ("T", "t")
"""States of a process, in proc(5): stopped by a signal, or by a debugger."""
_CGROUPS = Path("/sys/fs/cgroup")
_FROZEN = ("FREEZING", "FROZEN", "frozen 1")
"""What `freezer.state` and `cgroup.events` say."""
_UNIX_SOCKETS = Path("/proc/net/unix")
_CONNECTED = ("02", "03")
"""The states of a client's socket: SS_CONNECTING until it is accepted, and SS_CONNECTED."""


def why_stopped(connection: socket.socket) -> str | None:
    """Return what to tell if the process that listens there is stopped; None if it runs, or is not seen here."""
    pid = listener_of(connection) if connection.family == socket.AF_UNIX else 0
    if pid and status_field(PROC / str(pid), "State")[:1] in _STOPPED:
        return f"the VM's process {pid} is stopped; `kill -CONT {pid}` lets it go on"
    if pid and any(state in _FROZEN for path in _freezers(pid) for state in _lines(path)):
        return f"the VM's process {pid} is frozen by its control group; whoever has paused its container can thaw it"
    return None


def why_ungreeted(connection: socket.socket, where: str) -> str:
    """Return what to tell of a monitor that has not accepted our connection, or does not greet us."""
    other_clients = _other_clients(connection) if connection.family == socket.AF_UNIX else None
    if other_clients:
        return (
            f"another client is connected to the monitor at {where}, which serves one at a time; "
            "end that client, or give the VM one more monitor (-qmp)"
        )
    if other_clients == 0:
        return f"the monitor at {where} does not greet, though no other client is connected; the VM is busy, or hangs"
    return f"nothing at {where} greets as a monitor does; another client may be connected, or it wants TLS (tls-creds)"


def _freezers(pid: int) -> Iterator[Path]:
    """Yield the files that may tell whether the control groups of a process are frozen (cgroups v1 and v2)."""
    for line in _lines(PROC / str(pid) / "cgroup"):
        _, controllers, group = line.split(":", 2)
        if controllers == "freezer":
            yield _CGROUPS / "freezer" / group.lstrip("/") / "freezer.state"
        elif not controllers:
            yield from (place / group.lstrip("/") / "cgroup.events" for place in (_CGROUPS, _CGROUPS / "unified"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


def _other_clients(connection: socket.socket) -> int | None:
    """Return how many clients besides us are connected to a unix socket, or wait for it; None if that is not seen."""
    path = connection.getpeername()
    sockets = [line.split(maxsplit=7) for line in _lines(_UNIX_SOCKETS)]
    connected = sum(entry[5] in _CONNECTED and entry[7:] == [path] for entry in sockets)
    return connected - 1 if connected else None  # none, not even us: those of another network namespace are shown
