"""Several clients at a real VM's monitor, and commands that come when they must not."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.wait import wait_until
from vmferry.client.qmp_client import QmpClient
from vmferry.errors import CommandError
from vmferry.perf.lab import VM_COMMAND, Lab, VmProcess

pytestmark = pytest.mark.kvm

SLOW = {"max-bandwidth": 1 << 20}
FAST = {"max-bandwidth": 0, "downtime-limit": 2000}


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as lab:
        yield lab


def start(lab: Lab) -> tuple[VmProcess, str]:
    source, _, uri = lab.start_pair(["--memory", "64M", "--cpus", "2"], ["--append", "ramsize=32"])
    source.wait_for_passes(1)
    return source, uri


def status(monitor: QmpClient) -> str:
    return str(monitor.execute("query-migrate").get("status", "none"))


def refusal(vm: VmProcess, command: str, **arguments: object) -> str:
    with pytest.raises(CommandError) as refused:
        vm.monitor.execute(command, {name.replace("_", "-"): value for name, value in arguments.items()})
    return str(refused.value)


def capability(name: str) -> dict[str, Any]:
    return {"capabilities": [{"capability": name, "state": True}]}


def test_commands_out_of_order_are_refused_and_change_nothing(lab: Lab) -> None:
    vm, uri = start(lab)
    monitor = vm.monitor
    assert monitor.execute("query-migrate") == {}
    assert monitor.execute("migrate_cancel") == {}
    assert "expected state: none" in refusal(vm, "migrate-continue", state="pre-switchover")
    assert "'-incoming' was not specified" in refusal(vm, "migrate-incoming", uri=uri)
    assert monitor.execute("query-migrate") == {}

    monitor.execute("migrate-set-parameters", SLOW)
    monitor.execute("migrate", {"uri": uri})
    wait_until(lambda: status(monitor) == "active")
    assert "in progress" in refusal(vm, "migrate", uri=uri)
    assert "in progress" in refusal(vm, "migrate-set-capabilities", **capability("auto-converge"))
    assert "expected state: active" in refusal(vm, "migrate-continue", state="device")
    assert "no paused migration" in refusal(vm, "migrate", uri=uri, resume=True)
    assert status(monitor) == "active"

    monitor.execute("migrate-set-parameters", FAST)
    wait_until(lambda: status(monitor) == "completed")
    assert monitor.execute("migrate_cancel") == {}
    assert "handed over" in refusal(vm, "cont")
    assert "previous migration" in refusal(vm, "migrate", uri=uri)
    assert "expected state: completed" in refusal(vm, "migrate-continue", state="pre-switchover")
    assert status(monitor) == "completed"


def test_many_may_watch_while_one_migrates_and_cancels(lab: Lab) -> None:
    vm, uri = start(lab)
    ended = threading.Event()
    seen: list[list[str]] = []

    def watch() -> None:
        statuses: list[str] = []
        with QmpClient.connect(f"unix:{lab.directory / 'source.qmp'}") as monitor:
            while not ended.is_set() or statuses[-1] != "cancelled":
                now = status(monitor)
                if not statuses or statuses[-1] != now:
                    statuses.append(now)
        seen.append(statuses)

    watchers = [threading.Thread(target=watch) for _ in range(4)]
    for watcher in watchers:
        watcher.start()
    vm.monitor.execute("migrate-set-parameters", SLOW)
    vm.monitor.execute("migrate", {"uri": uri})
    wait_until(lambda: status(vm.monitor) == "active")
    vm.monitor.execute("migrate_cancel")
    ended.set()
    for watcher in watchers:
        watcher.join(60)
    order = ["none", "setup", "active", "cancelling", "cancelled"]
    assert len(seen) == 4
    for statuses in seen:
        assert statuses == [name for name in order if name in statuses], "each sees the states in their order"


def test_a_destination_tells_what_happens_in_qemus_order(lab: Lab) -> None:
    source, destination, uri = lab.start_pair(["--memory", "64M"], ["--append", "ramsize=4"])
    for vm in (source, destination):
        vm.monitor.execute("migrate-set-capabilities", capability("events"))
    source.monitor.execute("migrate-set-capabilities", capability("pause-before-switchover"))
    source.monitor.execute("migrate", {"uri": uri})
    wait_until(lambda: status(source.monitor) == "pre-switchover")
    assert "Migration is not finalized yet" in refusal(source, "cont")
    source.monitor.execute("migrate-continue", {"state": "pre-switchover"})
    told: list[str] = []

    def completed() -> bool:
        answer = destination.monitor.execute("query-migrate")
        told.extend(event.data.get("status", event.name) for event in destination.monitor.take_events())
        return answer["status"] == "completed" and told[-1:] == ["completed"]

    wait_until(completed)
    assert told == ["active", "RESUME", "completed"]
    assert destination.monitor.execute("query-migrate") == {"status": "completed"}
    assert "has already been started" in refusal(destination, "migrate-incoming", uri="tcp:127.0.0.1:0")


def test_a_guest_that_ends_is_an_event_and_a_state_and_its_words_are_told(lab: Lab) -> None:
    vm = lab.start([*VM_COMMAND, "--memory", "32M", "--append", "ramsize=abc", "--paused"], "vm")
    vm.monitor.execute("cont")
    assert vm.monitor.wait_event("RESUME", 60).data == {}
    assert vm.monitor.wait_event("GUEST_PANICKED", 60).data == {"action": "pause"}
    assert vm.monitor.wait_event("STOP", 60).data == {}
    assert vm.monitor.execute("query-status") == {"running": False, "status": "guest-panicked"}
    assert "cannot run on" in refusal(vm, "cont")
    wait_until(lambda: "cannot understand 'ramsize=abc'; there are ramsize mode " in vm.errors())
