"""CPU quotas on single threads: on real ones in real control groups, and the files of version 2."""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.groups import busy_thread, move, other_group, quota_of
from vmferry.client.processes import Thread
from vmferry.control.host.cgroup import Hierarchy, find_hierarchy, group_of
from vmferry.control.host.own_group import OwnGroup
from vmferry.control.slowing import cpu_quota
from vmferry.control.slowing.cpu_quota import CpuQuota
from vmferry.control.undoing.guard import Guard
from vmferry.errors import HostError


@pytest.fixture
def busy() -> Iterator[Thread]:
    with busy_thread() as thread:
        yield thread


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """Another group, as a manager makes them."""
    with other_group("elsewhere") as group:
        yield group


def home_of(thread: Thread) -> Path:
    return group_of(thread.id, find_hierarchy())


def running_share(thread: Thread, seconds: float) -> float:
    def ran_ns() -> int:
        return int(Path(f"/proc/{thread.id}/schedstat").read_text().split()[0])

    start_ns, start_s = ran_ns(), time.monotonic()
    time.sleep(seconds)
    return (ran_ns() - start_ns) / 1e9 / (time.monotonic() - start_s)


def test_each_thread_runs_its_own_share(busy: Thread) -> None:
    with busy_thread() as other, Guard() as guard:
        quota = CpuQuota([busy, other], guard)
        assert quota.set_each([busy, other], [0, 90]) == pytest.approx(90, abs=0.01)
        groups, hierarchy = [home_of(busy), home_of(other)], find_hierarchy()
        quotas = [hierarchy.quota_us(group) or (0, 1) for group in groups]
        assert [quota_us / period_us for quota_us, period_us in quotas] == [1, pytest.approx(0.1)]
        assert running_share(other, 1.0) < 0.16


def test_a_thread_runs_its_share_and_goes_home(busy: Thread) -> None:
    """Bounds from above hold however busy the machine is."""
    home = home_of(busy)
    with Guard() as guard:
        quota = CpuQuota([busy], guard)
        assert home_of(busy) == home
        for percent in (50, 90, 99):
            assert quota.set([busy], percent) == pytest.approx(percent, abs=0.01)
            group = home_of(busy)
            assert group.parent == home
            assert running_share(busy, 1.0) < (100 - percent) / 100 + 0.06
        quota.set([busy], 0)
        quota.set([busy], 99)
    assert home_of(busy) == home
    assert not group.exists()


def test_a_throttle_takes_its_share_of_what_others_leave() -> None:
    """Half of a processor that two share is all that one of them has got."""
    with busy_thread() as one, busy_thread() as other, Guard() as guard:
        for thread in (one, other):
            os.sched_setaffinity(thread.id, {min(os.sched_getaffinity(0))})
        quota = CpuQuota([one], guard)
        time.sleep(0.6)
        assert quota.set([one], 90) == pytest.approx(90, abs=0.01)
        quota_us, period_us = quota_of(one) or (0, 1)
        assert quota_us / period_us < 0.08
        quota.set([one], 0)
        quota_us, period_us = quota_of(one) or (0, 1)
        assert quota_us == period_us, "what is not throttled may have all of it"


def test_a_thread_that_ended_meanwhile_leaves_nothing() -> None:
    with busy_thread() as thread, Guard() as guard:
        CpuQuota([thread], guard).set([thread], 90)
        group = home_of(thread)
        os.kill(thread.id, 9)
    assert not group.exists()


def test_a_thread_that_has_ended_is_named() -> None:
    with Guard() as guard, pytest.raises(HostError, match="thread 4194999 of the VM has ended"):
        CpuQuota([Thread(4194999, 1)], guard)


def test_a_number_that_has_become_another_threads_is_left_alone(busy: Thread) -> None:
    home = home_of(busy)
    with Guard() as guard, pytest.raises(HostError, match=f"thread {busy.id} of the VM has ended"):
        CpuQuota([Thread(busy.id, busy.start_ticks - 1)], guard)
    assert home_of(busy) == home


def test_no_permission_is_one_line_that_names_the_place(
    busy: Thread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmferry.control.slowing.cpu_quota.group_of", lambda thread_id, hierarchy: tmp_path / "nowhere")
    with Guard() as guard, pytest.raises(HostError, match=r"threads of .*nowhere may not be moved"):
        CpuQuota([busy], guard, Hierarchy(1, tmp_path, "/"))


def test_a_second_driver_leaves_the_first_ones_groups_alone(busy: Thread) -> None:
    with Guard() as guard:
        quota = CpuQuota([busy], guard)
        with Guard() as second, pytest.raises(HostError, match=rf"vmferry-{busy.id} exists already"):
            CpuQuota([busy], second)
        quota.set([busy], 50)
        with Guard() as second, pytest.raises(HostError, match=rf"threads are in .*vmferry-{busy.id} already"):
            CpuQuota([busy], second)
        assert home_of(busy).name == f"vmferry-{busy.id}"


def test_nothing_is_left_if_the_guard_was_killed(busy: Thread) -> None:
    home = home_of(busy)
    guard = Guard()
    quota = CpuQuota([busy], guard)
    quota.set([busy], 50)
    guard._process.kill()
    quota.release()
    guard.close()
    assert home_of(busy) == home
    assert not (home / f"vmferry-{busy.id}").exists()


def test_a_thread_that_was_moved_is_slowed_where_it_is_and_stays_there(busy: Thread, elsewhere: Path) -> None:
    """By who manages the VM: the group where it was before is not its home any more."""
    hierarchy = find_hierarchy()
    with Guard() as guard:
        quota = CpuQuota([busy], guard)
        quota.set([busy], 50)
        before = home_of(busy)
        assert quota.holds()
        move(busy, elsewhere)
        assert not quota.holds()
        quota.set([busy], 50)
        assert quota.holds()
        assert home_of(busy).parent == elsewhere
        assert not before.exists()
        move(busy, elsewhere)
    assert home_of(busy) == elsewhere
    assert [path for path in elsewhere.iterdir() if path.is_dir()] == []
    assert hierarchy.quota_us(elsewhere) is None


def test_a_thread_may_be_moved_just_while_it_is_slowed(
    busy: Thread, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    is_fair = cpu_quota._is_fair

    def moved_before_the_second_look(thread: Thread) -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            move(busy, elsewhere)
        return is_fair(thread)

    with Guard() as guard:
        quota = CpuQuota([busy], guard)
        monkeypatch.setattr(cpu_quota, "_is_fair", moved_before_the_second_look)
        assert quota.set([busy], 50) == pytest.approx(50, abs=0.01)
        assert home_of(busy).parent == elsewhere
        assert quota.holds()


def test_groups_that_somebody_removed_are_made_again(busy: Thread) -> None:
    with Guard() as guard:
        quota = CpuQuota([busy], guard)
        (home_of(busy) / f"vmferry-{busy.id}").rmdir()
        quota.set([busy], 50)
        assert quota.holds()


def test_a_quota_that_somebody_changed_is_set_again(busy: Thread) -> None:
    hierarchy = find_hierarchy()
    with Guard() as guard:
        quota = CpuQuota([busy], guard)
        quota.set([busy], 50)
        hierarchy.remove_quota(home_of(busy))
        assert not quota.holds()
        quota.set([busy], 50)
        assert quota_of(busy) == (5_000, 10_000)


def test_a_home_that_was_renamed_is_the_home(busy: Thread, elsewhere: Path) -> None:
    if find_hierarchy().version == 2:
        pytest.skip("groups of version 2 keep their names")
    move(busy, elsewhere)
    renamed = elsewhere.with_name(f"{elsewhere.name}-renamed")
    try:
        with Guard() as guard:
            quota = CpuQuota([busy], guard)
            quota.set([busy], 90)
            elsewhere.rename(renamed)
        assert home_of(busy) == renamed
        assert [path for path in renamed.iterdir() if path.is_dir()] == []
    finally:
        renamed.rename(elsewhere)


def test_threads_come_and_go(busy: Thread) -> None:
    """As vCPUs that are plugged and unplugged."""
    home = home_of(busy)
    with busy_thread() as another, Guard() as guard:
        quota = CpuQuota([busy], guard)
        quota.set([busy, another], 50)
        assert quota_of(another) == (5_000, 10_000)
        quota.set([another], 50)
        assert home_of(busy) == home
        assert quota.holds()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a thread a real-time one")
def test_a_real_time_thread_is_not_said_to_be_slowed(busy: Thread) -> None:
    os.sched_setscheduler(busy.id, os.SCHED_RR, os.sched_param(1))
    reason = f"thread {busy.id} is a real-time one"
    try:
        with Guard() as guard, busy_thread() as another:
            home = home_of(another)
            with pytest.raises(HostError, match=reason):
                CpuQuota([another, busy], guard)
            assert home_of(another) == home
            assert not (home / f"vmferry-{another.id}").exists()
    finally:
        os.sched_setscheduler(busy.id, os.SCHED_OTHER, os.sched_param(0))


def test_a_quota_shorter_than_the_kernels_is_told_as_what_it_is(elsewhere: Path) -> None:
    """Four threads share a fifth of a CPU: the hundredth part of a share would be 0.5 ms in a second."""
    hierarchy = find_hierarchy()
    hierarchy.set_quota(elsewhere, 20_000, 100_000)
    with busy_thread() as one, busy_thread() as two, busy_thread() as three, busy_thread() as four, Guard() as guard:
        threads = [one, two, three, four]
        for thread in threads:
            move(thread, elsewhere)
        quota = CpuQuota(threads, guard)
        assert quota.set(threads, 90) == pytest.approx(90, abs=0.01)
        assert quota_of(one) == (1_000, 200_000)
        assert quota.set(threads, 99) == pytest.approx(98, abs=0.01)
        assert quota_of(one) == (1_000, 1_000_000)
        assert quota.holds()


def test_what_the_guard_dissolves_is_only_what_was_made(busy: Thread, elsewhere: Path) -> None:
    """A group that has got the name of one that is gone is somebody else's."""
    hierarchy = find_hierarchy()
    own = OwnGroup(busy, elsewhere, elsewhere.stat().st_ino + 1)
    own.path.mkdir()
    move(busy, elsewhere)
    assert own.dissolve(hierarchy)
    assert own.path.exists()
    own.path.rmdir()


def test_version_2_shares_a_quota_among_the_threads_below_it_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libvirt gives each vCPU a group with a quota, and all of them may have one above."""
    for group, cpu_max in (("", "max 100000"), ("vm", "300000 100000"), ("vm/0", "50000 100000"), ("vm/1", "max 1000")):
        (tmp_path / group).mkdir(exist_ok=True)
        (tmp_path / group / "cpu.max").write_text(cpu_max)
        (tmp_path / group / "cgroup.threads").touch()
        (tmp_path / group / "cgroup.controllers").write_text("cpu")
        (tmp_path / group / "cgroup.subtree_control").write_text("cpu")
    with busy_thread() as one, busy_thread() as two, busy_thread() as three, busy_thread() as four, Guard() as guard:
        kernel = Version2({one.id: tmp_path / "vm/0", two.id: tmp_path / "vm/1"}, tmp_path / "vm")
        monkeypatch.setattr("vmferry.control.slowing.cpu_quota.group_of", kernel.group_of)
        threads = [one, two, three, four]
        quota = CpuQuota(threads, guard, Hierarchy(2, tmp_path, "/"))
        quota.set(threads, 50)
        parts = [numbers[0] / numbers[1] for numbers in quota._quotas_us.values()]
        assert parts == pytest.approx([0.25, 0.375, 0.375, 0.375])
        for path in kernel.groups():
            shutil.rmtree(path)


class Version2:
    """Tells where threads are by what was written last to files that are no kernel's."""

    def __init__(self, homes: dict[int, Path], others: Path) -> None:
        self._homes = homes
        self._others = others

    def groups(self) -> list[Path]:
        return [own for home in {*self._homes.values(), self._others} for own in home.glob("vmferry-*")]

    def group_of(self, thread_id: int, hierarchy: Hierarchy) -> Path:
        home = self._homes.get(thread_id, self._others)
        own = home / f"vmferry-{thread_id}"
        entered = own.exists() and (own / "cgroup.threads").exists()
        return own if entered and (own / "cgroup.threads").read_text() == str(thread_id) else home
