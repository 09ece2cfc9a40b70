"""The guard undoes everything, whatever becomes of the one that it guards."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.memory_vm import MemoryVm
from tests.support.monitor_thread import monitor_thread
from tests.support.wait import wait_until
from vmferry.control.guard import Guard
from vmferry.errors import HostError

DRIVER = """
import sys, time
from pathlib import Path
from vmferry.control.guard import Guard
path = Path(sys.argv[1])
guard = Guard()
guard.will_write(path, "before")
path.write_text("changed")
print(guard._process.pid, flush=True)
time.sleep(60)
"""


def test_the_last_step_is_undone_first(tmp_path: Path) -> None:
    directory, file = tmp_path / "group", tmp_path / "group" / "value"
    with Guard() as guard:
        guard.will_remove(directory)
        directory.mkdir()
        guard.will_write(tmp_path / "value", "second")
        guard.will_write(tmp_path / "value", "first")
        assert directory.exists()
    assert not directory.exists()
    assert (tmp_path / "value").read_text() == "second"
    assert not file.exists()


def test_what_cannot_be_undone_does_not_keep_the_rest(tmp_path: Path) -> None:
    with Guard() as guard:
        guard.will_write(tmp_path / "value", "undone")
        guard.will_write(tmp_path / "gone" / "value", "nobody there")
        guard.will_remove(tmp_path / "gone")
    assert (tmp_path / "value").read_text() == "undone"


def test_an_exception_is_a_reason_to_undo(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Guard() as guard:
        guard.will_write(tmp_path / "value", "undone")
        raise ZeroDivisionError
    assert (tmp_path / "value").read_text() == "undone"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_driver_that_is_killed_is_undone(tmp_path: Path, number: signal.Signals) -> None:
    """The guard gets the signal too, as it would from a terminal or from `kill` with a group; SIGKILL it alone."""
    path = tmp_path / "value"
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert driver.stdout
    guard_pid = int(driver.stdout.readline())
    assert path.read_text() == "changed"
    if number is not signal.SIGKILL:
        os.kill(guard_pid, number)
    driver.send_signal(number)
    start_s = time.monotonic()
    wait_until(lambda: path.read_text() == "before")
    assert time.monotonic() - start_s < 2
    driver.wait()
    driver.stdout.close()


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


def test_nothing_more_is_changed_without_a_guard(tmp_path: Path) -> None:
    guard = Guard()
    guard._process.kill()
    guard._process.wait()
    with pytest.raises(HostError, match="nothing more is changed"):
        for _ in range(2):
            guard.will_write(tmp_path / "value", "x")
    guard.close()


def test_commands_are_sent_once_the_driver_is_dead(path: Path, vm: MemoryVm) -> None:
    """As long as it lives it sends them itself, over the one connection that QEMU has for it."""
    with monitor_thread(vm, f"unix:{path}"):
        for sent in (True, False):
            with Guard() as guard:
                guard.will_send(f"unix:{path}", "migrate-set-parameters", {"downtime-limit": 77})
                if sent:
                    guard.sent()
            assert vm.parameters.downtime_limit == (300 if sent else 77)


def test_what_was_sent_is_no_reason_to_forget_what_was_promised_later(path: Path, vm: MemoryVm) -> None:
    """A means that is refused says so, and the next one makes promises of its own."""
    with monitor_thread(vm, f"unix:{path}"), Guard() as guard:
        guard.will_send(f"unix:{path}", "migrate-set-parameters", {"downtime-limit": 66, "max-bandwidth": 1 << 20})
        guard.sent()
        guard.will_send(f"unix:{path}", "migrate-set-parameters", {"downtime-limit": 77})
        guard.close()
        assert (vm.parameters.downtime_limit, vm.parameters.max_bandwidth) == (77, 128 << 20)


def test_the_controller_is_taken_back_unless_others_use_it(tmp_path: Path) -> None:
    for name in ("used", "free"):
        (tmp_path / name).mkdir()
    (tmp_path / "used" / "group").mkdir()
    with Guard() as guard:
        guard.will_take_cpu_back(tmp_path / "used")
        guard.will_take_cpu_back(tmp_path / "free")
    assert not (tmp_path / "used" / "cgroup.subtree_control").exists()
    assert (tmp_path / "free" / "cgroup.subtree_control").read_text() == "-cpu"
