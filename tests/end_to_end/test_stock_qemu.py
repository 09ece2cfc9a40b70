"""Stock QEMU is made to converge from outside, and is left as it was, whatever happens to the driver."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from bench.peers import Load, Peer

from tests.support.groups import other_group
from tests.support.wait import wait_until
from vmferry.client.qmp_client import QmpClient
from vmferry.control.host.cgroup import find_hierarchy, group_of
from vmferry.errors import MonitorError
from vmferry.migration.events import Decided, Ended, Started
from vmferry.migration.journal import read_journal
from vmferry.perf.lab import Lab, VmProcess

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]
QEMU = Peer("qemu", binary="/usr/bin/qemu-system-x86_64")
ENDLESS = ("--max-bandwidth", "48MiB/s", "--downtime-limit", "1ms")
_MOST_RUNNING = 0.9
VARIANT = "background-sync+responsive-throttle"
CANCELLED = ("cancelled", "failed")
"""QEMU 7.2 shuts the return path down before it is `cancelling`, so its thread may see an error first."""


class Scene:
    """A pair of QEMUs with a busy guest, whose source's monitor is free for the driver."""

    def __init__(self, lab: Lab) -> None:
        self.source, self.destination, self.uri = QEMU.start_pair(lab, Load(160, 1, 64))
        self.monitor_address = f"unix:{lab.directory / 'source.qmp'}"
        self.thread_ids = [vcpu["thread-id"] for vcpu in self.source.monitor.execute("query-cpus-fast")]
        self.home = self.groups()
        self.source.monitor.close()  # QEMU serves one client

    def driver(self, *options: str, program: Sequence[str] = ("-m", "vmferry")) -> subprocess.Popen[str]:
        words = ["--qmp", self.monitor_address, "--interval", "1s", *options]
        return subprocess.Popen(
            [sys.executable, *program, "migrate", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def migrate(self, *options: str) -> subprocess.Popen[str]:
        return self.driver("--json", *self.orders, *options)

    def migrate_aloud(self, *options: str) -> subprocess.Popen[str]:
        """Have it say on stderr what it does."""
        return self.driver(*self.orders, *options)

    @property
    def orders(self) -> list[str]:
        return [self.uri, "--variant", VARIANT, "--downtime-limit", "100ms"]

    def throttled(self) -> bool:
        """Tell whether the vCPUs are away from home, with a quota that is more than a trial's 1 %."""
        groups = [group_of(thread_id, find_hierarchy()) for thread_id in self.thread_ids]
        return not set(groups) & self.home and all(_running_share(group) < _MOST_RUNNING for group in groups)

    def at_home(self) -> bool:
        left_over = [group for home in self.home for group in home.glob("vmferry-*") if self.owns(group)]
        return self.groups() == self.home and not left_over

    def groups(self) -> set[Path]:
        return {group_of(thread_id, find_hierarchy()) for thread_id in self.thread_ids}

    def owns(self, group: Path) -> bool:
        return any(group.name.endswith(f"-{thread_id}") for thread_id in self.thread_ids)

    def reconnect(self) -> VmProcess:
        """Return the source with a monitor of ours again, once the driver's connection is gone."""

        def connected() -> bool:
            try:
                self.source.monitor = QmpClient.connect(self.monitor_address)
            except MonitorError:
                return False
            return True

        wait_until(connected)
        return self.source


def _running_share(group: Path) -> float:
    """Return which share of the time the quota of a group leaves; 1 if it has none."""
    file = group / "cpu.cfs_quota_us"
    if file.exists():
        quota, period = file.read_text().strip(), (group / "cpu.cfs_period_us").read_text()
    else:
        quota, period = (group / "cpu.max").read_text().split()
    return 1.0 if quota in ("-1", "max") else int(quota) / int(period)


def wait_for_line(driver: subprocess.Popen[str], words: str) -> str:
    """Return the first line for people that has these words."""
    assert driver.stderr
    return next(line for line in driver.stderr if words in line)


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Lab() as lab:
        yield Scene(lab)


def test_a_busy_guest_converges_and_all_is_as_before(scene: Scene, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    driver = scene.migrate("--max-bandwidth", "64MiB/s", "--journal", str(journal))
    out, errors = driver.communicate()
    assert driver.returncode == 0, errors
    result = json.loads(out)
    assert result["status"] == "completed"
    assert result["max_throttle_percent"] > 0
    assert scene.at_home()
    scene.destination.check_memory()
    source = scene.reconnect()
    parameters = source.monitor.execute("query-migrate-parameters")
    assert (parameters["max-bandwidth"], parameters["downtime-limit"]) == (128 << 20, 300)
    events = [entry.event for entry in read_journal(journal)]
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Ended)
    assert events[-1].sent_bytes == result["sent_bytes"]
    assert (
        max(event.throttle_percent for event in events if isinstance(event, Decided)) == events[-1].max_throttle_percent
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_is_killed_leaves_the_vm_running_unthrottled(scene: Scene, number: signal.Signals) -> None:
    driver = scene.migrate(*ENDLESS)
    wait_until(scene.throttled)
    driver.send_signal(number)
    wait_until(scene.at_home)
    driver.communicate()
    source = scene.reconnect()
    assert source.monitor.execute("query-status")["running"]
    status = source.monitor.execute("query-migrate")["status"]
    assert status in (CANCELLED if number is signal.SIGINT else ("active",))


def test_a_client_that_takes_the_monitor_keeps_nothing_from_being_undone(scene: Scene) -> None:
    """It waits for its turn while the driver runs, and then stays; QEMU's own throttle was told how far to go."""
    with scene.reconnect().monitor as monitor:
        before = monitor.execute("query-migrate-parameters")
    driver = scene.migrate_aloud(*ENDLESS, "--throttle-by", "auto-converge")
    wait_for_line(driver, "50 %")
    with socket.socket(socket.AF_UNIX) as waiting:
        waiting.connect(scene.monitor_address.removeprefix("unix:"))
        driver.kill()
        with QmpClient(waiting, scene.monitor_address, 10, 10) as monitor:
            now = monitor.execute("query-migrate-parameters")
            driver.communicate()
            assert {name for name in before if before[name] != now[name]} == {"max-bandwidth", "downtime-limit"}


def test_a_qemu_that_is_moved_meanwhile_is_slowed_where_it_is_and_stays_there(scene: Scene) -> None:
    """As systemd or libvirt may do."""
    with other_group("manager") as group:
        driver = scene.migrate(*ENDLESS)
        wait_until(scene.throttled)
        (group / "cgroup.procs").write_text(str(scene.source.process.pid))
        assert all(home.parent != group for home in scene.groups())
        wait_until(lambda: {home.parent for home in scene.groups()} == {group})
        wait_until(scene.throttled)
        driver.kill()
        wait_until(lambda: scene.groups() == {group})
        driver.communicate()
        scene.source.process.kill()
        assert not [path for path in group.iterdir() if path.is_dir()]


def test_vcpus_that_become_real_time_ones_are_not_said_to_be_slowed_by_quotas(scene: Scene) -> None:
    driver = scene.migrate_aloud(*ENDLESS)
    wait_until(scene.throttled)
    for thread_id in scene.thread_ids:
        # In a group without real-time budget the kernel refuses it, so out of ours first.
        (next(iter(scene.home)) / find_hierarchy().threads_file).write_text(str(thread_id))
        os.sched_setscheduler(thread_id, os.SCHED_RR, os.sched_param(1))
    line = wait_for_line(driver, "no longer by cgroup")
    assert "is a real-time one, which quotas do not slow" in line
    assert "now by QEMU's own auto-converge" in line
    driver.send_signal(signal.SIGINT)
    driver.communicate()
    assert scene.at_home()


def test_signals_that_follow_the_first_change_nothing(scene: Scene) -> None:
    """As from a terminal that is closed while somebody presses Ctrl-C again and again."""
    driver = scene.migrate(*ENDLESS)
    wait_until(scene.throttled)
    driver.send_signal(signal.SIGINT)
    wait_until(lambda: not scene.throttled())  # of signals that are pending together Python names the lowest first
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        driver.send_signal(number)
        time.sleep(0.01)
    out, errors = driver.communicate()
    assert driver.returncode == 130
    assert json.loads(out)["status"] in CANCELLED, errors
    assert scene.at_home()
    source = scene.reconnect()
    assert source.monitor.execute("query-migrate")["status"] in CANCELLED
    assert source.monitor.execute("query-migrate-parameters")["downtime-limit"] == 300


IMPATIENT = """
from vmferry.cli.main import main
from vmferry.control.undoing import guard

guard._END_TIMEOUT_S = 1.0
main()
"""


def test_a_monitor_that_hangs_keeps_no_thread_slowed(scene: Scene) -> None:
    driver = scene.driver("--json", *scene.orders, *ENDLESS, program=("-c", IMPATIENT))
    wait_until(scene.throttled)
    scene.source.process.send_signal(signal.SIGSTOP)
    driver.send_signal(signal.SIGINT)
    wait_until(scene.at_home)
    assert driver.poll() is None, "it asks, breaks the link out of band, and lets the guard try"
    driver.communicate()
    assert driver.returncode == 1
    scene.source.process.send_signal(signal.SIGCONT)


def test_qemu_that_dies_leaves_no_groups(scene: Scene) -> None:
    driver = scene.migrate(*ENDLESS)
    wait_until(scene.throttled)
    scene.source.process.kill()
    _, errors = driver.communicate()
    assert driver.returncode == 1
    assert "monitor" in errors.splitlines()[-1]
    assert "Traceback" not in errors
    assert not [group for home in scene.home for group in home.glob("vmferry-*") if scene.owns(group)]


def test_a_running_migration_is_steered_only_when_asked(scene: Scene) -> None:
    source = scene.reconnect()
    source.monitor.execute("migrate-set-parameters", {"max-bandwidth": 64 << 20, "downtime-limit": 100})
    source.monitor.execute("migrate", {"uri": scene.uri})
    source.monitor.close()
    refused = scene.migrate()
    _, errors = refused.communicate()
    assert refused.returncode == 2
    assert "--attach steers that migration" in errors
    attached = scene.driver("--json", "--attach", "--variant", VARIANT, "--cpu-throttle-initial", "95")
    out, errors = attached.communicate()
    assert attached.returncode == 3, errors
    result = json.loads(out)
    assert (result["status"], result["arrival"]) == ("completed", "unverified"), "nobody had asked for a return path"
    assert scene.at_home()


def test_a_limit_calls_it_off(scene: Scene) -> None:
    driver = scene.migrate(*ENDLESS, "--max-guest-loss", "5%", "--deadline", "10min")
    out, _ = driver.communicate()
    assert driver.returncode == 1
    assert json.loads(out)["status"] in CANCELLED
    assert scene.at_home()
    assert scene.reconnect().monitor.execute("query-status")["running"]


def test_a_deadline_can_move_the_guest_at_once(scene: Scene) -> None:
    driver = scene.migrate("--max-bandwidth", "32MiB/s", "--deadline", "3s", "--on-limit", "switchover")
    out, errors = driver.communicate()
    assert driver.returncode == 0, errors
    result = json.loads(out)
    assert result["elapsed_ms"] >= 3000
    scene.destination.check_memory()
