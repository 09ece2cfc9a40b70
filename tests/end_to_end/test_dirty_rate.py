"""The dirty rate of a real VM, beside what its payload counts itself."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.wait import wait_until
from vmferry.errors import CommandError
from vmferry.perf.lab import VM_COMMAND, Lab, VmProcess

pytestmark = pytest.mark.kvm

STRESS_MIB = 64
PAGES_PER_MIB = 256


@pytest.fixture
def vm() -> Iterator[VmProcess]:
    with Lab() as lab:
        vm = lab.start([*VM_COMMAND, "--memory", "160M", "--cpus", "2", "--append", f"ramsize={STRESS_MIB}"], "vm")
        vm.wait_for_passes(1)
        yield vm


def begin(vm: VmProcess, mode: str, period_ms: int, **more: object) -> None:
    arguments = {"calc-time": period_ms, "calc-time-unit": "millisecond", "mode": mode, **more}
    vm.monitor.execute("calc-dirty-rate", arguments)


def info(vm: VmProcess) -> Any:
    return vm.monitor.execute("query-dirty-rate", {"calc-time-unit": "millisecond"})


def measure(vm: VmProcess, mode: str, period_ms: int = 500, **more: object) -> int:
    begin(vm, mode, period_ms, **more)
    wait_until(lambda: info(vm)["status"] == "measured")
    return int(info(vm)["dirty-rate"])


@pytest.mark.parametrize(("mode", "more"), [("dirty-bitmap", {}), ("page-sampling", {"sample-pages": 16_384})])
def test_the_rate_is_what_the_guest_writes(vm: VmProcess, mode: str, more: dict[str, int]) -> None:
    written_before, start_s = vm.progress().written_pages, time.monotonic()
    rate = measure(vm, mode, **more)
    wall_s = time.monotonic() - start_s
    written_mib = (vm.progress().written_pages - written_before) / PAGES_PER_MIB
    # Each page counts once, so no more than the stressed memory can be found in a window of half a second or longer.
    assert rate <= min(STRESS_MIB, written_mib) / 0.5 * 1.15
    assert rate * wall_s >= min(STRESS_MIB, written_mib) * 0.5 if mode == "dirty-bitmap" else rate > 10
    vm.check_memory()


@pytest.mark.parametrize("mode", ["dirty-bitmap", "page-sampling"])
def test_a_paused_guest_dirties_nothing(vm: VmProcess, mode: str) -> None:
    vm.monitor.execute("stop")
    assert info(vm)["status"] == "unstarted"
    assert measure(vm, mode, 50) == 0


def test_one_measurement_at_a_time(vm: VmProcess) -> None:
    begin(vm, "page-sampling", 60_000)
    with pytest.raises(CommandError, match="already being measured"):
        begin(vm, "dirty-bitmap", 50)
    vm.process.terminate()
    assert vm.process.wait(60) == 143, "a measurement does not keep a VM from ending"


def test_a_migration_has_the_dirty_log_for_itself(vm: VmProcess) -> None:
    begin(vm, "dirty-bitmap", 60_000)
    vm.monitor.execute("migrate-set-parameters", {"max-bandwidth": 1 << 20})
    with Lab() as lab:
        uri = f"unix:{lab.directory / 'in.sock'}"
        lab.start([*VM_COMMAND, "--memory", "160M", "--cpus", "2", "--incoming", uri], "destination")
        vm.monitor.execute("migrate", {"uri": uri})
        wait_until(lambda: vm.monitor.execute("query-migrate")["status"] == "active")
        assert info(vm)["status"] == "unstarted"
        assert "dirty-rate" not in info(vm)
        with pytest.raises(CommandError, match="the running migration uses the dirty log"):
            begin(vm, "dirty-bitmap", 50)
        assert measure(vm, "page-sampling", 50) >= 0
        vm.monitor.execute("migrate_cancel")
        wait_until(lambda: vm.monitor.execute("query-migrate")["status"] == "cancelled")
        assert measure(vm, "dirty-bitmap", 200) > 0
