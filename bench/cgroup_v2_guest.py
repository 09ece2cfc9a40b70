"""What `bench.cgroup_v2` runs as the first process of a Linux VM: quotas in each layout of groups that hosts have."""

import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vmferry.client.processes import Thread
from vmferry.control.host.cgroup import find_hierarchy, group_of
from vmferry.control.slowing.cpu_quota import CpuQuota
from vmferry.control.undoing.guard import Guard

ROOT = Path("/sys/fs/cgroup")
SCOPE = ROOT / "machine.slice" / "vm.scope"
LIBVIRT = ROOT / "machine.slice" / "other.scope" / "libvirt"
POWER_OFF = 0x4321FEDC
BUSY = """
import threading
def spin():
    print(threading.get_native_id(), flush=True)
    while True: sum(range(1000))
for _ in range(2): threading.Thread(target=spin).start()
"""


def in_root(pid: int, threads: list[int]) -> None:
    """Nothing but the root group, as without systemd."""


def in_scope(pid: int, threads: list[int]) -> None:
    """A scope of systemd's."""
    (ROOT / "cgroup.subtree_control").write_text("+cpu")
    SCOPE.mkdir(parents=True, exist_ok=True)
    (SCOPE.parent / "cgroup.subtree_control").write_text("+cpu")
    (SCOPE / "cgroup.procs").write_text(str(pid))


def in_limited_scope(pid: int, threads: list[int]) -> None:
    """A scope that may use one CPU, as a container's."""
    in_scope(pid, threads)
    (SCOPE / "cpu.max").write_text("100000 100000")


def in_libvirts_groups(pid: int, threads: list[int]) -> None:
    """A threaded group for each vCPU, as libvirt makes them."""
    LIBVIRT.mkdir(parents=True)
    (LIBVIRT.parent / "cgroup.subtree_control").write_text("+cpu")
    (LIBVIRT / "cgroup.procs").write_text(str(pid))
    for number, thread in enumerate(threads):
        (LIBVIRT / f"vcpu{number}").mkdir()
        (LIBVIRT / f"vcpu{number}" / "cgroup.type").write_text("threaded")
        (LIBVIRT / f"vcpu{number}" / "cgroup.threads").write_text(str(thread))
    (LIBVIRT / "cgroup.subtree_control").write_text("+cpu")


def measure(layout: Callable[[int, list[int]], None]) -> None:
    """Slow two busy threads in a layout, and see that all is as before then."""
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout
        threads = [int(process.stdout.readline()) for _ in range(2)]
        layout(process.pid, threads)
        hierarchy = find_hierarchy()
        homes = [group_of(thread, hierarchy) for thread in threads]
        before = state(homes)
        with Guard() as guard:
            slowed = [thread for number in threads if (thread := Thread.of(number))]
            quota = CpuQuota(slowed, guard)
            for percent in (50, 90, 99):
                quota.set(slowed, percent)
                tell(layout=layout.__name__, throttle_percent=percent, share=share(threads))
        restored = [group_of(thread, hierarchy) for thread in threads] == homes and state(homes) == before
        tell(layout=layout.__name__, restored=restored)
        process.kill()


def state(groups: list[Path]) -> list[tuple[list[str], list[str]]]:
    """Return what we might have left behind."""
    files = ("cgroup.subtree_control", "cgroup.type")
    return [
        ([(group / file).read_text() for file in files if (group / file).exists()], [str(p) for p in group.iterdir()])
        for group in groups
    ]


def share(threads: list[int]) -> float:
    """Return the part of a CPU that each of the threads gets, on average."""
    start_ns, start_s = ran_ns(threads), time.monotonic()
    time.sleep(2)
    return (ran_ns(threads) - start_ns) / 1e9 / (time.monotonic() - start_s) / len(threads)


def ran_ns(threads: list[int]) -> int:
    return sum(int(Path(f"/proc/{thread}/schedstat").read_text().split()[0]) for thread in threads)


def tell(**figures: object) -> None:
    print("RESULT", json.dumps(figures), flush=True)


def main() -> None:
    libc = ctypes.CDLL(None)
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), ("cgroup2", "/sys/fs/cgroup")):
        libc.mount(kind.encode(), target.encode(), kind.encode(), 0, None)
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    for layout in (in_root, in_scope, in_limited_scope, in_libvirts_groups):
        measure(layout)
    libc.reboot(POWER_OFF)


if __name__ == "__main__":
    main()
