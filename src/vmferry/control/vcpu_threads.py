"""Which threads of this host are the vCPUs of the VM behind a monitor.

`query-cpus-fast` gives their ids as QEMU sees them. A monitor may belong to a VM on another host or in another pid
namespace, where these numbers mean other threads than here; so each is traced to the process behind the monitor.
"""

from pathlib import Path

from vmferry.control.monitor import Monitor
from vmferry.errors import HostError

_PROC = Path("/proc")


def vcpu_threads(monitor: Monitor) -> list[int]:
    """Return the ids of the vCPU threads, each once. Raises HostError if they cannot be told for sure."""
    theirs = {int(cpu["thread-id"]) for cpu in monitor.execute("query-cpus-fast")}
    if not theirs:
        raise HostError("the VM has no vCPU threads")
    pid = monitor.peer_pid
    if pid is None:
        raise HostError(
            "the monitor does not show that the VM runs on this host; give a unix socket, or a domain of libvirt here"
        )
    ours = _threads_of(pid, theirs) or _threads_of(_qemu_of(min(theirs)), theirs)
    if len(ours) != len(theirs):
        raise HostError("the vCPU threads were not found on this host; is the VM in a container?")
    return sorted(ours)


def _threads_of(pid: int | None, theirs: set[int]) -> list[int]:
    """Return those threads of a process that have these ids in the process's own pid namespace."""
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
    except OSError:
        return []
    return [int(path.name) for path in tasks if _inner_id(path) in theirs]


def _qemu_of(tid: int) -> int | None:
    """Return the process of a thread if it is a QEMU. Its monitor's socket may have been opened by libvirt."""
    pid = _status(_PROC / str(tid), "Tgid")
    return int(pid) if pid and "qemu" in _name(int(pid)) else None


def _name(pid: int) -> str:
    """Return the path of the program a process runs, or its own name where that may not be read."""
    try:
        return str((_PROC / str(pid) / "exe").readlink())
    except OSError:
        return _status(_PROC / str(pid), "Name")


def _inner_id(thread: Path) -> int:
    """Return the id of a thread in its own pid namespace; 0 if it has ended."""
    return int((_status(thread, "NSpid") or "0").split()[-1])


def _status(process: Path, field: str) -> str:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(f"{field}:")), "")
