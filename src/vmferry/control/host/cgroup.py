"""Linux control groups with the cpu controller, version 1 or 2 (kernel: admin-guide/cgroup-v1, -v2)."""

from dataclasses import dataclass
from pathlib import Path

from vmferry.client.processes import PROC
from vmferry.errors import HostError


@dataclass(frozen=True)
class Hierarchy:
    """The cgroup file system that has the cpu controller: where it is mounted, and which group that shows."""

    version: int
    mount: Path
    root: str

    @property
    def threads_file(self) -> str:
        """The name of the file to write a thread's id to, which moves the thread into the group."""
        return "tasks" if self.version == 1 else "cgroup.threads"

    def quota_us(self, group: Path) -> tuple[int, int] | None:
        """Return how long a group may run in each period, and how long that is; None if it has no quota."""
        if self.version == 1:
            quota, period = (_content(group / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        else:
            quota, _, period = _content(group / "cpu.max").partition(" ")
        return None if quota in {"", "-1", "max"} else (int(quota), int(period))

    def set_quota(self, group: Path, quota_us: int, period_us: int) -> None:
        """Let a group run for `quota_us` of every `period_us`. Raises OSError."""
        if self.version == 2:
            (group / "cpu.max").write_text(f"{quota_us} {period_us}")
            return
        quota, period = (group / "cpu.cfs_quota_us", quota_us), (group / "cpu.cfs_period_us", period_us)
        # Never more in between than in the end, which a limited group above would refuse.
        for file, us in (period, quota) if period_us >= int(period[0].read_text()) else (quota, period):
            file.write_text(str(us))

    def remove_quota(self, group: Path) -> None:
        """Let a group run all the time again. Raises OSError."""
        file, text = ("cpu.max", "max") if self.version == 2 else ("cpu.cfs_quota_us", "-1")
        (group / file).write_text(text)


def find_hierarchy(proc: Path = PROC) -> Hierarchy:
    """Return the hierarchy with the cpu controller. Raises HostError if there is none."""
    found = None
    for line in (proc / "self" / "mountinfo").read_text(errors="surrogateescape").splitlines():
        place, _, kind = line.partition(" - ")
        root, mount = place.split()[3:5]
        file_system, _, options = kind.split(maxsplit=2)
        if file_system == "cgroup" and "cpu" in options.split(","):
            return Hierarchy(1, Path(mount), root)
        if file_system == "cgroup2" and "cpu" in _content(Path(mount) / "cgroup.controllers").split():
            found = Hierarchy(2, Path(mount), root)
    if not found:
        raise HostError("no control group of this machine has the cpu controller")
    return found


def group_of(thread_id: int, hierarchy: Hierarchy, proc: Path = PROC) -> Path:
    """Return the directory of the group that a thread is in. Raises HostError if it cannot be seen."""
    try:
        lines = (proc / str(thread_id) / "cgroup").read_text(errors="surrogateescape").splitlines()
    except OSError as error:
        raise HostError(f"thread {thread_id} of the VM is not on this machine: {error.strerror}") from error
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" if hierarchy.version == 2 else "cpu" in controllers.split(","):
            return hierarchy.mount / path.removeprefix(hierarchy.root).lstrip("/")
    raise HostError(f"thread {thread_id} is in no control group with the cpu controller")


def _content(file: Path) -> str:
    """Return what is in a file, nothing if it is not there: the topmost group has no quota, some mounts are hidden."""
    try:
        return file.read_text().strip()
    except OSError:
        return ""
