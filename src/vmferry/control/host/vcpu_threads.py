"""Which threads of this host are the vCPUs of the VM behind a monitor.

`query-cpus-fast` gives their ids as QEMU sees them. They are believed only as far as they are threads of the process
that the monitor belongs to, by the kernel's word and in that process's own pid namespace.
"""

from pathlib import Path

from vmferry.client.monitor import Monitor
from vmferry.client.processes import PROC, Thread, status_field
from vmferry.errors import HostError


def vcpu_threads(monitor: Monitor) -> list[Thread]:
    """Return the vCPU threads, each once, by vCPU number. Raises HostError if they cannot be told for sure."""
    cpus = sorted(monitor.execute("query-cpus-fast"), key=lambda cpu: cpu["cpu-index"])
    theirs = list(dict.fromkeys(cpu["thread-id"] for cpu in cpus))
    if not theirs:
        raise HostError("the VM has no vCPU threads")
    pid = monitor.peer_pid
    tasks = {_inner_id(path): path for path in _tasks(pid)}
    ours = [thread for inner in theirs if inner in tasks and (thread := Thread.of(int(tasks[inner].name)))]
    if len(ours) != len(theirs):
        raise HostError(f"process {pid}, which serves the monitor, is not the one that has the vCPU threads")
    return ours


def _tasks(pid: int) -> list[Path]:
    try:
        return list((PROC / str(pid) / "task").iterdir())
    except OSError:
        return []


def _inner_id(task: Path) -> int:
    """Return the id of a thread in its own pid namespace; 0 if it has ended."""
    return int((status_field(task, "NSpid") or "0").split()[-1])
