"""The guard undoes everything, whatever becomes of the one that it guards."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.fake_qemu import FakeQemu, answer
from tests.support.groups import busy_thread
from tests.support.memory_vm import MemoryVm
from tests.support.monitor_thread import monitor_thread
from tests.support.qemu import qemu_without_guest
from tests.support.wait import wait_until
from vmferry.client.processes import Thread
from vmferry.client.qmp_client import QmpClient
from vmferry.clock import MonotonicClock
from vmferry.control.asking.driven_vm import DrivenVm
from vmferry.control.host.cgroup import find_hierarchy, group_of
from vmferry.control.host.own_group import OwnGroup
from vmferry.control.undoing.changes import Change
from vmferry.control.undoing.guard import Guard
from vmferry.control.undoing.leftovers import Leftovers
from vmferry.control.undoing.settings import Settings
from vmferry.control.undoing.undo import keep, undo
from vmferry.control.undoing.undo_steps import PutBack, SendCommand, SetBack, TakeCpuBack
from vmferry.control.undoing.way_in import WayIn
from vmferry.errors import CommandError, HostError
from vmferry.simulation.clock import VirtualClock

S = 1_000_000_000
BEFORE, OURS, THEIRS = ({"downtime-limit": value} for value in (300, 77, 88))
DRIVER = """
import os, sys, time
from vmferry.control.undoing.changes import Change
from vmferry.control.undoing.guard import Guard
from vmferry.client.qmp_client import QmpClient
monitor = QmpClient.connect(sys.argv[1])
guard = Guard(monitor)
guard.will_set_back({"downtime-limit": 300}, {"downtime-limit": 77})
guard.will_put_back(monitor, [Change("multifd-channels", 2, 5), Change("multifd", False, True, is_capability=True)])
monitor.execute("migrate-set-parameters", {"downtime-limit": 77, "multifd-channels": 5})
monitor.execute("migrate-set-capabilities", {"capabilities": [{"capability": "multifd", "state": True}]})
print(guard._process.pid, flush=True)
os.write(monitor.descriptor, sys.argv[2].encode())
time.sleep(60)
"""


class Driver:
    """A process that has changed a parameter, and maybe begun to say something more."""

    def __init__(self, path: Path, last_words: str = "") -> None:
        words = [sys.executable, "-c", DRIVER, str(path), last_words]
        self._process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout
        self.guard_pid = int(self._process.stdout.readline())

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        self._process.send_signal(number)
        self._process.communicate()


def downtime_limit(client: QmpClient) -> object:
    return client.execute("query-migrate-parameters")["downtime-limit"]


def parameters_at(address: str) -> dict[str, Any]:
    with QmpClient.connect(address) as client:
        return dict(client.execute("query-migrate-parameters"))


def ended(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z"


@pytest.fixture
def ours(path: Path, vm: MemoryVm) -> Iterator[QmpClient]:
    """The monitor of a VM whose parameter is changed."""
    vm.migrations.parameters = vm.migrations.parameters.changed(OURS)
    with monitor_thread(vm, f"unix:{path}"), QmpClient.connect(str(path)) as client:
        yield client


def test_it_loads_little_before_there_is_something_to_undo() -> None:
    code = "import sys, vmferry.control.undoing.undo; print(*{'msgspec', 'numpy', 'ssl'} & sys.modules.keys())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split() == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_driver_that_is_killed_is_undone(path: Path, vm: MemoryVm, number: signal.Signals) -> None:
    """The guard gets the signal too, as it would from a terminal or from `kill` with a group; SIGKILL it alone."""
    with monitor_thread(vm, f"unix:{path}"):
        driver = Driver(path)
        assert vm.migrations.parameters.downtime_limit == 77
        if number is not signal.SIGKILL:
            os.kill(driver.guard_pid, number)
        driver.kill(number)
        wait_until(lambda: vm.migrations.parameters.downtime_limit == 300)
        wait_until(lambda: vm.migrations.parameters.multifd_channels == 2 and not vm.migrations.capabilities.multifd)


@pytest.mark.qemu
@pytest.mark.parametrize(
    "last_words",
    [
        "",
        '{"execute": "migrate-set-parameters", "arguments": {"downtime-limit": 5',
        '{"execute": "query-qmp-schema", "id": 1}\n' * 20,
        '{"execute": "query-stat',
    ],
)
@pytest.mark.parametrize("pretty", [False, True])
def test_a_client_that_waits_for_the_monitor_keeps_nothing_from_being_undone(
    path: Path, last_words: str, pretty: bool
) -> None:
    """The driver may have died with half a command said, or with answers unread."""
    with qemu_without_guest(path, pretty=pretty):
        driver = Driver(path, last_words)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            driver.kill()
            with QmpClient(waiting, str(path), 60, 60) as client:
                assert downtime_limit(client) == 300


@pytest.mark.qemu
def test_it_goes_on_until_a_qemu_that_stands_still_answers(path: Path) -> None:
    with qemu_without_guest(path) as qemu:
        driver = Driver(path)
        qemu.send_signal(signal.SIGSTOP)
        driver.kill()
        assert not ended(driver.guard_pid)
        qemu.send_signal(signal.SIGCONT)
        wait_until(lambda: ended(driver.guard_pid))
        with QmpClient.connect(str(path)) as client:
            assert downtime_limit(client) == 300
            assert {"capability": "multifd", "state": False} in client.execute("query-migrate-capabilities")


@pytest.mark.qemu
def test_another_vm_at_the_same_place_is_left_alone(path: Path) -> None:
    with qemu_without_guest(path) as first:
        driver = Driver(path)
        first.send_signal(signal.SIGSTOP)
        driver.kill()
        first.kill()
        first.wait()
    path.unlink()
    with qemu_without_guest(path), QmpClient.connect(str(path)) as client:
        client.execute("migrate-set-parameters", OURS)
        wait_until(lambda: ended(driver.guard_pid))
        assert downtime_limit(client) == 77


def test_a_monitor_that_shows_no_process_is_not_taken_for_the_vms(monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = FakeQemu([])
    monkeypatch.setattr("vmferry.client.monitor.open_monitor", lambda address, timeout_s: stranger)
    way_in = WayIn("unix:/nowhere", None, Thread.of(os.getpid()))
    assert not SendCommand(way_in, "cont", {}).attempt()
    assert stranger.told == []


def test_what_a_migration_needs_is_put_back_when_it_has_ended_and_the_monitor_is_left_to_others_until_then() -> None:
    qemu, clock, told = FakeQemu([*[answer()] * 15, answer("completed", 9)]), VirtualClock(), list[str]()
    qemu.begin()
    qemu.capabilities["multifd"] = True
    qemu.parameters |= OURS | {"multifd-channels": 8}
    changes = [Change("multifd", False, True, is_capability=True), Change("multifd-channels", 2, 4)]
    way = ["tcp:there:1", None, None, None]
    promises: dict[int, list[Any]] = {
        1: ["vm", *way],
        2: ["put-back", [asdict(change) for change in changes], *way],
        3: ["set-back", BEFORE, OURS],
        4: ["put-back", [asdict(Change("max-bandwidth", 1, 128 << 20))], *way],
        5: ["kept", 4],
    }
    keep(promises, clock, lambda address, timeout_s: qemu, told.append)
    assert [command for command, _ in qemu.told] == ["migrate-set-parameters", "migrate-set-capabilities"]
    assert qemu.told[0][1] == BEFORE
    assert not qemu.capabilities["multifd"]
    assert (qemu.parameters["multifd-channels"], qemu.parameters["max-bandwidth"]) == (8, 128 << 20)
    assert clock.now_ns() > 5 * S
    assert told[0].startswith("a change to a VM is not undone yet")
    assert "by hand: once no migration runs, send" in told[0]


def test_settings_that_are_refused_are_tried_again() -> None:
    qemu, clock = Refusing([]), VirtualClock()
    step = PutBack(WayIn("tcp:there:1", None, None, lambda address, timeout_s: qemu), [asdict(MULTIFD)])
    undo([step], None, clock)
    assert (qemu.capabilities["multifd"], qemu.refusals) == (False, 3)


MULTIFD = Change("multifd", False, True, is_capability=True)


class Refusing(FakeQemu):
    """Connects for a while after its migration was cancelled, as QEMU before 10 does."""

    refusals = 0

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        self.capabilities.setdefault("multifd", True)
        if command == "migrate-set-capabilities" and self.refusals < 3:
            self.refusals += 1
            raise CommandError("There's a migration process in progress", "GenericError")
        return super().execute(command, arguments)


def test_what_was_promised_last_is_done_first(ours: QmpClient) -> None:
    with Guard(ours) as guard:
        guard.will_send("migrate-set-parameters", {"downtime-limit": 1})
        guard.will_send("migrate-set-parameters", {"downtime-limit": 2})
    assert parameters_at(ours.where)["downtime-limit"] == 1


def test_what_the_driver_has_done_itself_is_not_done_again(ours: QmpClient) -> None:
    """A means that is refused says so, and the next one makes promises of its own."""
    with Guard(ours) as guard:
        first = guard.will_send("migrate-set-parameters", {"downtime-limit": 66, "max-bandwidth": 1 << 20})
        guard.will_send("migrate-set-parameters", {"downtime-limit": 67})
        guard.kept(first)
    now = parameters_at(ours.where)
    assert (now["downtime-limit"], now["max-bandwidth"]) == (67, 128 << 20)


def test_what_somebody_else_has_set_is_left(ours: QmpClient) -> None:
    with QmpClient.connect(ours.where) as another, Guard(ours) as guard:
        guard.will_set_back(BEFORE | {"max-bandwidth": 128 << 20}, OURS | {"max-bandwidth": 1 << 20})
        another.execute("migrate-set-parameters", THEIRS | {"max-bandwidth": 1 << 20})
        guard.close()
        now = another.execute("query-migrate-parameters")
        assert (now["downtime-limit"], now["max-bandwidth"]) == (88, 128 << 20)


def test_an_exception_is_a_reason_to_undo(ours: QmpClient) -> None:
    with pytest.raises(ZeroDivisionError), Guard(ours) as guard:
        guard.will_set_back(BEFORE, OURS)
        raise ZeroDivisionError
    assert parameters_at(ours.where)["downtime-limit"] == 300


def test_what_cannot_be_undone_is_told_with_the_command_that_does_it(ours: QmpClient, capfd: Any) -> None:
    with Guard(ours) as guard:
        guard.will_set_back(BEFORE, OURS)
        guard.will_send("no-such-command", {})
    assert parameters_at(ours.where)["downtime-limit"] == 300
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("vmferry: the VM refuses what undoes a change (The command no-such-command has not been")
    assert line.endswith(f"""send '{{"execute": "no-such-command", "arguments": {{}}}}' to {ours.where}""")


class Step:
    """Can be undone at the `n`th try."""

    def __init__(self, n: float) -> None:
        self._n = n
        self.try_count = 0

    def attempt(self) -> bool:
        self.try_count += 1
        return self.try_count >= self._n

    def by_hand(self) -> str:
        return "do it"


class Vm:
    def __init__(self, gone: Callable[[], bool], *, known: bool = True) -> None:
        self._gone = gone
        self.vm_is_known = known

    @property
    def vm_is_gone(self) -> bool:
        return self._gone()


def test_as_long_as_the_vm_is_there_it_is_tried_once_a_second() -> None:
    step, clock, told = Step(10_000), VirtualClock(), list[str]()
    undo([step], Vm(lambda: False), clock, told.append)  # type: ignore[arg-type]
    assert step.try_count == 10_000
    assert clock.now_ns() / S == pytest.approx(10_000, rel=0.01)
    assert told == ["a change to a VM is not undone yet and is tried again; by hand: do it"]


@pytest.mark.parametrize(
    ("gone", "known", "until_s"), [(lambda: True, True, 10), (lambda: False, False, 600), (lambda: False, None, 600)]
)
def test_what_is_given_up_is_told(gone: Callable[[], bool], known: bool | None, until_s: float) -> None:
    clock, told = VirtualClock(), list[str]()
    vm = None if known is None else Vm(gone, known=known)
    undo([Step(float("inf"))], vm, clock, told.append)  # type: ignore[arg-type]
    assert clock.now_ns() / S == pytest.approx(until_s, abs=1.1)
    assert told[-1] == "a change to a VM was not undone; by hand: do it"


def test_commands_to_a_vm_that_is_gone_are_nothing_to_do(tmp_path: Path) -> None:
    with busy_thread() as thread:
        way_in = WayIn(str(tmp_path / "nobody"), None, thread)
        steps: list[SendCommand | SetBack] = [SendCommand(way_in, "stop", {}), SetBack(way_in, BEFORE, OURS)]
        assert not any(step.attempt() for step in steps)
        os.kill(thread.id, signal.SIGKILL)
        wait_until(lambda: way_in.vm_is_gone)
        assert all(step.attempt() for step in steps)


def test_a_vm_of_which_nothing_is_known_is_gone_when_nobody_listens_at_its_socket(path: Path) -> None:
    way_in = WayIn(f"unix:{path}", None, None)
    assert way_in.vm_is_gone
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        gone = [way_in.vm_is_gone]
    gone.append(way_in.vm_is_gone)
    assert gone == [False, True]
    assert not WayIn("tcp:127.0.0.1:1", None, None).vm_is_gone


def test_a_refusal_is_no_reason_to_try_again(ours: QmpClient) -> None:
    way_in = WayIn(ours.where, None, None)
    with pytest.raises(CommandError, match="downtime"):
        SetBack(way_in, {"downtime-limit": -1}, OURS).attempt()


def test_a_group_is_dissolved_before_a_monitor_is_waited_for(path: Path) -> None:
    """A monitor that never answers keeps no thread slowed."""
    hierarchy = find_hierarchy()
    with busy_thread() as thread, socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as silent:
        listener.bind(str(path))
        listener.listen()
        silent.connect(str(path))
        home = group_of(thread.id, hierarchy)
        own = OwnGroup.below(home, thread)
        guard = Guard(Silent(silent, path))  # type: ignore[arg-type]
        guard.will_dissolve(own)
        own.path.mkdir()
        (own.path / hierarchy.threads_file).write_text(str(thread.id))
        guard.will_send("stop", {})
        guard._pipe.close()
        wait_until(lambda: not own.path.exists())
        assert group_of(thread.id, hierarchy) == home
        assert guard._process.poll() is None
        guard._process.kill()
        guard.close()


class Silent:
    """A monitor that accepts no command."""

    def __init__(self, connection: socket.socket, path: Path) -> None:
        self.descriptor = connection.fileno()
        self.where = str(path)
        self.peer_pid = os.getpid()


def test_one_that_is_interrupted_while_it_starts_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *words: object, **options: object) -> None:
            super().__init__(*words, **options)  # type: ignore[call-overload]
            started.append(self)
            self.stdout = InterruptedPipe(self.stdout)  # type: ignore[assignment]

    class InterruptedPipe:
        def __init__(self, pipe: object) -> None:
            self.close = pipe.close  # type: ignore[attr-defined]

        def readline(self) -> bytes:
            raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        Guard()
    assert started[0].returncode == -signal.SIGKILL


def test_nothing_more_is_changed_without_a_guard() -> None:
    guard = Guard()
    guard._process.kill()
    guard._process.wait()
    with pytest.raises(HostError, match="nothing more is changed"):
        for _ in range(2):
            guard.will_send("stop", {})
    guard.close()


def test_a_guard_that_is_gone_keeps_nobody_from_putting_back(ours: QmpClient) -> None:
    left: list[object] = []
    ours.execute("migrate-set-parameters", BEFORE)
    guard = Guard(ours)
    driven = DrivenVm.ask(ours)
    with Settings(ours, MonotonicClock(), driven, lambda changes, refused: left.append(changes), guard) as settings:
        settings.set_parameters(OURS)
        guard._process.kill()
        guard._process.wait()
    guard.close()
    assert (downtime_limit(ours), left) == (300, [])


def test_a_guard_that_cannot_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", no_process)
    with pytest.raises(HostError, match="cannot start the process that undoes the throttle: Resource temporarily"):
        Guard()


def no_process(*words: object, **others: object) -> None:
    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))


def test_what_no_process_can_put_back_later_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", no_process)
    told: list[str] = []
    Leftovers(FakeQemu([]), told.append).leave([Change("downtime-limit", 300, 77)], True)
    assert "no process could be started" in told[0]
    assert '"downtime-limit":300' in told[0]


def test_the_controller_is_taken_back_unless_others_use_it(tmp_path: Path) -> None:
    for name in ("used", "free", "new"):
        (tmp_path / name).mkdir()
    (tmp_path / "used" / "group").mkdir()
    with Guard() as guard:
        for name in ("used", "free"):
            guard.will_take_cpu_back(tmp_path / name)
    assert TakeCpuBack(tmp_path / "new", 1).attempt()
    assert not (tmp_path / "used" / "cgroup.subtree_control").exists()
    assert not (tmp_path / "new" / "cgroup.subtree_control").exists()
    assert (tmp_path / "free" / "cgroup.subtree_control").read_text() == "-cpu"
