"""Where the control groups are, in the files of both versions."""

from pathlib import Path

import pytest

from vmferry.control.host.cgroup import Hierarchy, find_hierarchy, group_of
from vmferry.errors import HostError

V1 = "36 28 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2 = "28 20 0:25 / {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
OTHER = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


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


def test_a_mount_that_is_hidden_by_another_has_no_controller(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, [V2.format(mount=tmp_path / "hidden")], "0::/\n")
    with pytest.raises(HostError, match="no control group of this machine"):
        find_hierarchy(proc)


def test_a_container_sees_a_part_of_the_tree(tmp_path: Path) -> None:
    mounts = [V1.replace(" / /sys", " /docker/abc /sys")]
    proc = fake_proc(tmp_path, mounts, "4:cpu,cpuacct:/docker/abc/vm\n")
    (proc / "77").symlink_to("self")
    assert group_of(77, find_hierarchy(proc), proc) == Path("/sys/fs/cgroup/cpu,cpuacct/vm")
