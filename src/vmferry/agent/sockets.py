"""The monitors in a directory: every unix socket there is one, whatever else lies there is not."""

import stat
from collections.abc import Iterator
from pathlib import Path

from vmferry.agent.rules import Vm
from vmferry.client.monitor import Monitor
from vmferry.errors import CommandError, HostError


def sockets_in(directory: str) -> Iterator[Path]:
    """Yield the sockets in a directory. Raises HostError if it cannot be read."""
    try:
        paths = sorted(Path(directory).iterdir())
    except OSError as error:
        raise HostError(f"cannot look for monitors in {directory}: {error.strerror}", error.errno) from error
    return (path for path in paths if _is_socket(path))


def identify(monitor: Monitor, path: Path) -> Vm:
    """Ask a VM who it is; one without a name goes by that of its socket. Raises MonitorError."""
    name = monitor.execute("query-name").get("name") or path.stem
    return Vm(name=name, uuid=_uuid(monitor))


def _uuid(monitor: Monitor) -> str:
    try:
        return str(monitor.execute("query-uuid")["UUID"])
    except CommandError:
        return ""


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False
