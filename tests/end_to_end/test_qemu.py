"""Stock QEMU driven from outside: it converges, and whatever happens, the VM is left as it was found."""

import gc
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.qemu import stress_command
from tests.support.wait import wait_until
from vmferry.cancel import CancelToken
from vmferry.client.qmp_client import QmpClient
from vmferry.clock import MonotonicClock
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.asking.progress import Progress, ask
from vmferry.control.asking.result import Result
from vmferry.control.asking.survey import measure_rates
from vmferry.control.drive import IN_POSTCOPY, cancel_migration
from vmferry.control.host.cgroup import find_hierarchy, group_of
from vmferry.control.host.own_group import PREFIX
from vmferry.control.migrate import carry_out
from vmferry.control.migration_order import Order
from vmferry.control.ports import Ports
from vmferry.control.slowing.actuators import SlowedVm
from vmferry.control.slowing.dirty_limit import DirtyLimitThrottle
from vmferry.control.slowing.dirty_rates import DirtyRates
from vmferry.control.undoing.guard import Guard
from vmferry.control.undoing.settings import Settings
from vmferry.convergence.limits import Limits
from vmferry.convergence.variants import Variant, find_variant
from vmferry.errors import HostError, MonitorError, UsageError
from vmferry.migration.events import Acted
from vmferry.migration.journal import MemoryJournal
from vmferry.perf.lab import Lab, VmProcess

pytestmark = pytest.mark.qemu
needs_kvm = pytest.mark.kvm

MIB = 1 << 20
RESPONSIVE = "background-sync+responsive-throttle"
FAST = {"max-bandwidth": 64 * MIB, "downtime-limit": 300}
ENDLESS = {"max-bandwidth": 24 * MIB, "downtime-limit": 1}
CAPABILITIES = "query-migrate-capabilities"
PARAMETERS = "query-migrate-parameters"


@dataclass
class Pair:
    """Two QEMUs; `address` is a second monitor of the source, for who drives it."""

    source: VmProcess
    destination: VmProcess
    address: str
    uri: str

    def driven(self, order: Order, told: list[str] | None = None, warned: list[str] | None = None) -> Result:
        """Carry out an order, and check that nothing is left of it."""
        home = self.home
        settings = self.settings
        with QmpClient.connect(self.address) as monitor:
            told = [] if told is None else told
            warned = told if warned is None else warned
            ports = Ports(monitor, MonotonicClock(), CancelToken(), told.append, warned.append)
            result = carry_out(ports, order, ignore)
        assert self.settings == settings
        assert self.home == home
        assert self.our_cgroups() == []
        return result

    @property
    def tid(self) -> int:
        """The thread of the first vCPU."""
        tid: int = self.source.monitor.execute("query-cpus-fast")[0]["thread-id"]
        return tid

    @property
    def home(self) -> Path:
        """The cgroup that it is in."""
        return group_of(self.tid, find_hierarchy())

    @property
    def settings(self) -> list[object]:
        return [self.source.monitor.execute(command) for command in (CAPABILITIES, PARAMETERS)]

    def our_cgroups(self) -> list[Path]:
        return list(self.home.glob(f"{PREFIX}{self.tid}"))


def ignore(progress: Progress) -> None:
    pass


def order(uri: str | None, variant: str = RESPONSIVE, throttle_by: str | None = None, **parameters: object) -> Order:
    changes = {name.replace("_", "-"): value for name, value in parameters.items()}
    return Order(uri=uri, variant=find_variant(variant), parameters=FAST | changes, throttle_by=throttle_by)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def start_pair(
    lab: Lab,
    accel: str = "kvm",
    memory_mib: int = 128,
    vcpu_count: int = 1,
    stress_mib: int = 48,
    mode: str = "touch",
    options: Sequence[str] = (),
) -> Pair:
    drive_socket = lab.directory / "drive.qmp"
    uri = f"unix:{lab.directory / 'incoming.sock'}"
    load: dict[str, Any] = {
        "accel": accel,
        "memory_mib": memory_mib,
        "vcpu_count": vcpu_count,
        "stress_mib": stress_mib,
        "mode": mode,
    }
    destination = lab.start([*stress_command(**load), "-incoming", uri], "destination")
    source = lab.start([*stress_command(**load, drive_socket=str(drive_socket)), *options], "source")
    source.wait_for_passes(1)
    return Pair(source, destination, f"unix:{drive_socket}", uri)


@needs_kvm
def test_a_busy_guest_converges_by_our_decisions(lab: Lab) -> None:
    pair = start_pair(lab, vcpu_count=2, stress_mib=96)
    before = pair.source.progress().written_pages
    told: list[str] = []
    result = pair.driven(order(pair.uri, max_bandwidth=128 * MIB), told)
    assert result.completed, result
    assert (result.max_throttle_percent or 0) >= 50
    assert result.last.downtime_ms is not None
    assert result.last.downtime_ms <= FAST["downtime-limit"]
    assert any("50 -> 90 %" in line for line in told)
    assert pair.destination.check_memory().written_pages > before
    assert "QEMU" in told[0]
    assert "CPU quotas on its 2 vCPU threads" in told[0]


def test_a_guest_without_kvm_converges_as_well(lab: Lab) -> None:
    """No measurement is asked for that QEMU 7.2 would crash at. It damages memory itself, so that is not checked."""
    pair = start_pair(lab, accel="tcg", mode="xor")
    told: list[str] = []
    result = pair.driven(order(pair.uri, cpu_throttle_initial=90), told)
    assert result.completed, result
    assert (result.max_throttle_percent or 0) >= 90
    assert any("page-sampling" in line for line in told)


def test_what_the_migration_finds_itself_makes_up_for_what_samples_of_pages_do_not_see(lab: Lab) -> None:
    """Without KVM there is nothing but samples, and they see few of these pages change."""
    pair = start_pair(lab, accel="tcg", memory_mib=256, stress_mib=40)
    result = pair.driven(order(pair.uri, max_bandwidth=200 * MIB, downtime_limit=150))
    assert result.completed, result
    assert (result.max_throttle_percent or 0) >= 50


def start_pair_beyond_reach(lab: Lab, accel: str = "kvm") -> Pair:
    """A monitor that is no unix socket may be another host's, where the threads have the same numbers."""
    address = f"tcp:127.0.0.1:{free_port()}"
    return replace(start_pair(lab, accel, options=["-qmp", f"{address},server=on,wait=off"]), address=address)


RING_FAILED = "kvm_dirty_ring_reap_locked: Assertion"


def with_a_ring(attempt: Callable[[Lab], None]) -> None:
    """Try again where QEMU has ended itself, as it may where the host's KVM emulates dirty rings (docs/qemu.md)."""
    for _ in range(6):
        with Lab() as lab:
            try:
                return attempt(lab)
            except MonitorError:
                if RING_FAILED not in (lab.directory / "source.err").read_text():
                    raise
        with warnings.catch_warnings():  # what would have undone things at the VM is left behind
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
    pytest.fail("QEMU has ended itself each time")


@needs_kvm
def test_where_threads_cannot_be_reached_the_dirty_limit_is_used_if_there_is_one() -> None:
    with_a_ring(uses_the_dirty_limit)


def uses_the_dirty_limit(lab: Lab) -> None:
    pair = start_pair_beyond_reach(lab, "kvm,dirty-ring-size=1024")
    told: list[str] = []
    result = pair.driven(order(pair.uri, cpu_throttle_initial=90), told)
    assert "set-vcpu-dirty-limit" in told[0]
    assert told[1].startswith("not by cgroup: the monitor does not show that the VM runs on this host")
    assert result.completed, result
    assert result.throttle_by == "dirty-limit"
    pair.destination.check_memory()


@needs_kvm
def test_where_threads_cannot_be_reached_qemus_own_auto_converge_is_told_how_far_to_go(lab: Lab) -> None:
    pair = start_pair_beyond_reach(lab)
    told: list[str] = []
    result = pair.driven(order(pair.uri, cpu_throttle_initial=90), told)
    assert "QEMU's own auto-converge" in told[0]
    assert told[1].startswith("not by cgroup: the monitor does not show that the VM runs on this host")
    assert told[2].startswith("not by dirty-limit: ")
    assert result.completed, result
    assert (result.max_throttle_percent or 0) >= 90
    pair.destination.check_memory()


@needs_kvm
def test_a_dirty_ring_allows_limits_for_each_vcpu() -> None:
    with_a_ring(limits_each_vcpu)


def limits_each_vcpu(lab: Lab) -> None:
    pair = start_pair(lab, accel="kvm,dirty-ring-size=1024", vcpu_count=2)
    with QmpClient.connect(pair.address) as monitor:
        driven = DrivenVm.ask(monitor)
        with Settings(monitor, MonotonicClock(), driven) as settings, Guard(monitor) as guard:
            vm = SlowedVm(monitor, driven, guard, settings)
            throttle = DirtyLimitThrottle(vm)
            assert monitor.execute("query-vcpu-dirty-limit") == []
            throttle.apply(90, DirtyRates(1000 * MIB, (990 * MIB, 10 * MIB)))
            limits = monitor.execute("query-vcpu-dirty-limit")
            assert [(limit["cpu-index"], limit["limit-rate"]) for limit in limits] == [(0, 90), (1, 90)]
            with pytest.raises(HostError, match="somebody limits its vCPUs already"):
                DirtyLimitThrottle(vm)
        assert pair.source.monitor.execute("query-vcpu-dirty-limit") == [], "the guard has lifted it"
    assert pair.driven(order(pair.uri, throttle_by="dirty-limit")).completed
    pair.destination.check_memory()


@needs_kvm
def test_a_guest_with_a_dirty_ring_runs_on_when_it_was_measured() -> None:
    with_a_ring(runs_on_when_it_was_measured)


def runs_on_when_it_was_measured(lab: Lab) -> None:
    source = start_pair(lab, accel="kvm,dirty-ring-size=1024").source
    list(measure_rates(source.monitor, DrivenVm.ask(source.monitor), MonotonicClock(), CancelToken(), (50,), (1000,)))
    source.wait_for_passes(source.progress().passes + 3)


@needs_kvm
def test_an_idle_guest_is_never_slowed(lab: Lab) -> None:
    pair = start_pair(lab)
    pair.source.monitor.execute("stop")
    result = pair.driven(order(pair.uri))
    assert result.completed
    assert result.max_throttle_percent == 0


@needs_kvm
def test_what_is_not_possible_is_refused_before_anything_is_done(lab: Lab) -> None:
    pair = start_pair(lab)
    with pytest.raises(HostError, match="not by dirty-limit"):
        pair.driven(order(pair.uri, throttle_by="dirty-limit"))
    with pytest.raises(UsageError, match="no migration is running"):
        pair.driven(order(None))
    pair.source.monitor.execute("migrate", {"uri": pair.uri})
    with pytest.raises(UsageError, match="--attach"):
        pair.driven(order(pair.uri))
    assert ask(pair.source.monitor).running


IMPATIENT = """
from collections.abc import Iterable
from typing import Any, ClassVar

import msgspec

from vmferry.convergence.actions import Action, SetDowntimeLimit, StartPostcopy, SwitchOver
from vmferry.convergence.sensing import Body, View

NS_PER_S = 1_000_000_000


class NoSettings(msgspec.Struct, frozen=True, kw_only=True):
    pass


class Impatient:
    Settings: ClassVar[type] = NoSettings
    needs: ClassVar[Body] = Body.DOWNTIME_LIMIT | Body.SWITCH_OVER

    def __init__(self) -> None:
        self.steps = [(1, SetDowntimeLimit(limit_ns=7_000_000, reason="7 ms")), (2, SwitchOver(reason="enough"))]

    def look(self, view: View, settings: Any) -> Iterable[Action]:
        while self.steps and view.elapsed_ns > self.steps[0][0] * NS_PER_S:
            yield self.steps.pop(0)[1]


class Eager(Impatient):
    needs: ClassVar[Body] = Body.POSTCOPY

    def __init__(self) -> None:
        self.steps = [(1, StartPostcopy(reason="to post-copy"))]
"""


def impatient(directory: Path, name: str) -> Variant:
    path = directory / "impatient.py"
    path.write_text(IMPATIENT)
    return Variant(name, {"convergence-policy": f"{path}:{name}"})


@needs_kvm
def test_a_policy_that_moves_the_guest_without_slowing_it(lab: Lab, tmp_path: Path) -> None:
    pair, told, journal = start_pair(lab), list[str](), MemoryJournal()
    wanted = replace(order(pair.uri, max_bandwidth=24 * MIB, downtime_limit=1), journal=journal)
    result = pair.driven(replace(wanted, variant=impatient(tmp_path, "Impatient")), told)
    assert (result.completed, result.max_throttle_percent, result.throttle_by) == (True, 0, None)
    assert [line for line in told if line in ("7 ms", "enough")] == ["7 ms", "enough"]
    acted = [entry.event for entry in journal.entries if isinstance(entry.event, Acted)]
    assert [(event.what, event.downtime_limit_ns) for event in acted] == [
        ("SetDowntimeLimit", 7_000_000),
        ("SwitchOver", None),
    ]
    pair.destination.check_memory()


@needs_kvm
def test_a_policy_hands_the_guest_to_post_copy_where_that_was_prepared(lab: Lab, tmp_path: Path) -> None:
    pair, told = start_pair(lab), list[str]()
    wanted = replace(order(pair.uri, max_bandwidth=24 * MIB, downtime_limit=1), variant=impatient(tmp_path, "Eager"))
    with pytest.raises(UsageError, match="cannot be used here: it needs postcopy"):
        pair.driven(wanted)
    for vm in (pair.source, pair.destination):
        vm.monitor.execute(
            "migrate-set-capabilities", {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
        )
    assert pair.driven(wanted, told).completed
    assert told.index("to post-copy") < next(n for n, line in enumerate(told) if "post-copy has begun" in line)
    pair.destination.check_memory()


@needs_kvm
def test_what_is_in_post_copy_is_never_cancelled(lab: Lab) -> None:
    """The guest runs on the destination while most of its memory is still here."""
    pair = start_pair(lab)
    pair.source.monitor.execute("migrate-set-parameters", ENDLESS | {"max-postcopy-bandwidth": 8 * MIB})
    for vm in (pair.source, pair.destination):
        vm.monitor.execute(
            "migrate-set-capabilities", {"capabilities": [{"capability": "postcopy-ram", "state": True}]}
        )
    pair.source.monitor.execute("migrate", {"uri": pair.uri})
    pair.source.monitor.execute("migrate-start-postcopy")
    wait_until(lambda: ask(pair.source.monitor).status == "postcopy-active")
    assert not cancel_migration(pair.source.monitor)
    told: list[str] = []
    limits = Limits(deadline_ns=1)
    with QmpClient.connect(pair.address) as monitor:
        ports = Ports(monitor, MonotonicClock(), CancelToken(), told.append, told.append)
        result = carry_out(ports, Order(uri=None, limits=limits), ignore)
    assert told[-1] == IN_POSTCOPY
    assert result.completed
    pair.destination.check_memory()


@needs_kvm
def test_a_driver_that_attached_lets_go_when_it_is_terminated(lab: Lab) -> None:
    pair = start_pair(lab)
    home, capabilities = pair.home, pair.settings[0]
    pair.source.monitor.execute("migrate-set-parameters", ENDLESS)
    pair.source.monitor.execute("migrate", {"uri": pair.uri})
    words = ["migrate", "--qmp", pair.address, "--attach", "--variant", RESPONSIVE]
    with subprocess.Popen([sys.executable, "-m", "vmferry", *words], stderr=subprocess.PIPE) as driver:
        wait_until(lambda: pair.home.name.startswith(PREFIX))
        driver.terminate()
        _, errors = driver.communicate(timeout=60)
    assert b"goes on by itself" in errors
    assert driver.returncode == 143
    assert pair.home == home
    assert pair.our_cgroups() == []
    assert ask(pair.source.monitor).running
    pair.source.monitor.execute("migrate_cancel")
    wait_until(lambda: ask(pair.source.monitor).ended)
    pair.source.check_memory()
    assert pair.settings[0] == capabilities
