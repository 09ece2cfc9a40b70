"""CPU quotas on single threads: on real ones where this machine can, and the files of both versions."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmferry.control.cgroup import CpuQuota, Hierarchy, find_hierarchy, group_of
from vmferry.control.guard import Guard
from vmferry.errors import HostError

V1 = "36 28 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2 = "28 20 0:25 / {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
OTHER = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


@pytest.fixture
def busy() -> Iterator[int]:
    """The id of a thread that never rests."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process.pid
        process.kill()


def running_share(thread_id: int, seconds: float) -> float:
    def ran_ns() -> int:
        return int(Path(f"/proc/{thread_id}/schedstat").read_text().split()[0])

    start_ns, start_s = ran_ns(), time.monotonic()
    time.sleep(seconds)
    return (ran_ns() - start_ns) / 1e9 / (time.monotonic() - start_s)


def test_a_thread_runs_its_share_and_goes_home(busy: int) -> None:
    """Bounds from above hold however busy the machine is."""
    hierarchy = find_hierarchy()
    home = group_of(busy, hierarchy)
    with Guard() as guard:
        quota = CpuQuota([busy], guard)
        assert group_of(busy, hierarchy) == home
        for percent in (50, 90, 99):
            quota.set(percent)
            group = group_of(busy, hierarchy)
            assert group.parent == home
            assert running_share(busy, 1.0) < (100 - percent) / 100 + 0.06
        quota.set(0)
        quota.set(99)
    assert group_of(busy, hierarchy) == home
    assert not group.exists()


def test_a_thread_that_ended_meanwhile_leaves_nothing(busy: int) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process, Guard() as guard:
        CpuQuota([process.pid], guard).set(90)
        group = group_of(process.pid, find_hierarchy())
        process.kill()
        process.wait()
    assert not group.exists()


def test_a_thread_that_is_elsewhere_is_named() -> None:
    with Guard() as guard, pytest.raises(HostError, match="thread 4194999 of the VM is not on this machine"):
        CpuQuota([4194999], guard)


def fake_proc(directory: Path, mounts: list[str], groups: str) -> Path:
    for name, text in (("mountinfo", "\n".join(mounts)), ("cgroup", groups)):
        (directory / "self").mkdir(exist_ok=True)
        (directory / "self" / name).write_text(text)
    return directory


def test_version_1_is_found_among_other_mounts(tmp_path: Path) -> None:
    groups = "4:cpu,cpuacct:/machine/vm\n3:memory:/other\n0::/elsewhere\n"
    proc = fake_proc(tmp_path, [OTHER, V1], groups)
    hierarchy = find_hierarchy(proc)
    assert hierarchy == Hierarchy(1, Path("/sys/fs/cgroup/cpu,cpuacct"), "/")
    (proc / "77").symlink_to("self")
    assert group_of(77, hierarchy, proc) == Path("/sys/fs/cgroup/cpu,cpuacct/machine/vm")


def test_version_2_is_found_if_it_has_the_controller(tmp_path: Path) -> None:
    mount = tmp_path / "cgroup"
    mount.mkdir()
    (mount / "cgroup.controllers").write_text("cpuset cpu io\n")
    proc = fake_proc(tmp_path, [OTHER, V2.format(mount=mount)], "0::/machine.slice/vm/libvirt/vcpu0\n")
    hierarchy = find_hierarchy(proc)
    assert hierarchy == Hierarchy(2, mount, "/")
    (proc / "77").symlink_to("self")
    assert group_of(77, hierarchy, proc) == mount / "machine.slice/vm/libvirt/vcpu0"
    (mount / "cgroup.controllers").write_text("memory\n")
    with pytest.raises(HostError, match="no control group of this machine"):
        find_hierarchy(proc)


def test_a_container_sees_a_part_of_the_tree(tmp_path: Path) -> None:
    mounts = [V1.replace(" / /sys", " /docker/abc /sys")]
    proc = fake_proc(tmp_path, mounts, "4:cpu,cpuacct:/docker/abc/vm\n")
    (proc / "77").symlink_to("self")
    assert group_of(77, find_hierarchy(proc), proc) == Path("/sys/fs/cgroup/cpu,cpuacct/vm")


def test_no_permission_is_one_line_that_names_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmferry.control.cgroup.group_of", lambda thread_id, hierarchy: tmp_path / "nowhere")
    with Guard() as guard, pytest.raises(HostError, match=r"threads of .*nowhere may not be moved"):
        CpuQuota([1], guard, Hierarchy(1, tmp_path, "/"))


def test_a_second_driver_leaves_the_first_ones_groups_alone(busy: int) -> None:
    hierarchy = find_hierarchy()
    with Guard() as guard:
        quota = CpuQuota([busy], guard)
        with Guard() as second, pytest.raises(HostError, match=rf"vmferry-{busy} exists already"):
            CpuQuota([busy], second)
        quota.set(50)
        assert group_of(busy, hierarchy).name == f"vmferry-{busy}"


def test_groups_that_somebody_removed_are_one_line(busy: int) -> None:
    with Guard() as guard:
        quota = CpuQuota([busy], guard)
        (group_of(busy, find_hierarchy()) / f"vmferry-{busy}").rmdir()
        with pytest.raises(HostError, match=r"cannot set the quota of .*: No such file or directory"):
            quota.set(50)


def test_nothing_is_left_if_the_guard_was_killed(busy: int) -> None:
    hierarchy = find_hierarchy()
    home = group_of(busy, hierarchy)
    guard = Guard()
    quota = CpuQuota([busy], guard)
    quota.set(50)
    guard._process.kill()
    quota.release()
    guard.close()
    assert group_of(busy, hierarchy) == home
    assert not (home / f"vmferry-{busy}").exists()


def test_a_quota_is_shared_by_the_threads_below_it_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt gives each vCPU a group with a quota, and all of them may have one above."""
    for group, cpu_max in (("", "max 100000"), ("vm", "300000 100000"), ("vm/0", "50000 100000"), ("vm/1", "max 1000")):
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(cpu_max)
        (tmp_path / group / "cgroup.threads").touch()
        (tmp_path / group / "cgroup.controllers").write_text("cpu")
        (tmp_path / group / "cgroup.subtree_control").write_text("cpu")
    homes = {7: tmp_path / "vm/0", 8: tmp_path / "vm/1", 9: tmp_path / "vm", 10: tmp_path / "vm"}
    monkeypatch.setattr("vmferry.control.cgroup.group_of", lambda thread_id, hierarchy: homes[thread_id])
    with Guard() as guard:
        quota = CpuQuota(list(homes), guard, Hierarchy(2, tmp_path, "/"))
        assert quota._shares == {7: 0.5, 8: 0.75, 9: 0.75, 10: 0.75}
