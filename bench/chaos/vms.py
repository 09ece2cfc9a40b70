"""VM processes as a run under faults needs them: started, looked at while they may hang or die, and compared."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.chaos.faults import Freeze
from bench.peers import Load, Peer
from vmferry.control.host.cgroup import find_hierarchy, group_of
from vmferry.control.host.own_group import PREFIX
from vmferry.errors import MonitorError, VmferryError
from vmferry.perf.lab import Lab

_SETTLE_S = 10.0
_POLL_S = 0.02
_SPEED_S = 0.2
_REGAINED = 0.15
"""Of its speed, so much at least; whoever shares the machine may take the rest."""


class Vm:
    """A VM process. What it is asked is answered with None if it is gone."""

    def __init__(self, lab: Lab, peer: Peer, load: Load, name: str, incoming: str | None) -> None:
        dash = "-" if peer.binary else "--"
        boot = ["--append", f"ramsize={load.stress_mib}"] if not (peer.binary or incoming) else []
        options = [f"{dash}incoming", incoming] if incoming else boot
        self.drive_address = f"unix:{lab.directory / name}.qmp"
        """Of a monitor that is free for who drives a migration."""
        if peer.binary:  # serves one client at each of its monitors
            self.drive_address = f"unix:{lab.directory / name}.drive"
            options += ["-qmp", f"{self.drive_address},server=on,wait=off"]
        self.is_qemu = peer.binary is not None
        self.process = lab.start([*peer.command(load), *options], name)

    @property
    def alive(self) -> bool:
        """True until the process has ended."""
        return self.process.process.poll() is None

    def ask(self, command: str) -> Any:
        """Return the answer of the monitor, or None if the process is gone. Raises MonitorError if it hangs."""
        try:
            return self.process.monitor.execute(command)
        except MonitorError:
            with suppress(Exception):
                self.process.process.wait(5)
            if self.alive:
                raise
            return None

    def run_state(self) -> str:
        """Return QEMU's word for it; empty if the process is gone."""
        return (self.ask("query-status") or {"status": ""})["status"] if self.alive else ""

    def migration(self) -> dict[str, Any]:
        """Return the answer to `query-migrate`; empty if the process is gone."""
        return (self.ask("query-migrate") or {}) if self.alive else {}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if the process is still there."""
        self.process.process.send_signal(number)

    def damage(self, written_pages_before: int, pages_per_s_before: float) -> str:
        """Return what is wrong with the guest that is here, which must go on at its speed; empty if nothing is."""
        try:
            written_pages = self.process.check_memory().written_pages
            if written_pages < written_pages_before:
                return f"the guest went back from {written_pages_before} written pages to {written_pages}"
            if not holds(lambda: self.process.pages_per_s(_SPEED_S) > _REGAINED * pages_per_s_before):
                return f"the guest does not go on at its speed of {pages_per_s_before:.0f} pages per second"
        except VmferryError as error:
            return str(error) or "the guest crashed"
        return ""

    def state(self) -> dict[str, Any]:
        """Return all that a migration may change and has to put back, by names for people."""
        threads = [vcpu["thread-id"] for vcpu in self.ask("query-cpus-fast")]
        groups = [group_of(thread, find_hierarchy()) for thread in threads]
        return {
            "parameters": self.ask("query-migrate-parameters"),
            "capabilities": self.ask("query-migrate-capabilities"),
            "control groups": sorted(map(str, groups)),
            "groups of ours": [str(group / f"{PREFIX}{t}") for group, t in zip(groups, threads, strict=True)
                               if (group / f"{PREFIX}{t}").exists()],
            "nice values": [os.getpriority(os.PRIO_PROCESS, thread) for thread in threads],
            "throttle": self.migration().get("cpu-throttle-percentage", 0),
            "open files": len(list(Path(f"/proc/{self.process.process.pid}/fd").iterdir())),
            "threads": len(list(Path(f"/proc/{self.process.process.pid}/task").iterdir())),
        }  # fmt: skip

    def differences(self, before: dict[str, Any], names: set[str]) -> list[str]:
        """Return what is not as before after a while, of those names."""
        found: list[str] = []

        def is_restored() -> bool:
            found[:] = _differences(before, self.state(), names)
            return not found

        holds(is_restored)
        return found

    def close(self) -> None:
        """End the process, also one that was frozen."""
        if self.alive:
            self.signal(signal.SIGCONT)
        self.process.close()


def _differences(before: dict[str, Any], after: dict[str, Any], names: set[str]) -> list[str]:
    """Of files and threads, fewer are fine."""
    return [
        f"{name}: {_told(before[name], after[name])}"
        for name in sorted(names)
        if (after[name] > before[name] if isinstance(after[name], int) else after[name] != before[name])
    ]


def _told(before: Any, after: Any) -> str:
    """Return the part that differs."""
    if isinstance(before, dict):
        before = {name: value for name, value in before.items() if after.get(name) != value}
        after = {name: after.get(name) for name in before}
    return f"{before} before, {after} now"


def holds(condition: Callable[[], bool], timeout_s: float = _SETTLE_S) -> bool:
    """Wait until a condition holds, and return whether it does."""
    end_s = time.monotonic() + timeout_s
    while not (held := condition()) and time.monotonic() < end_s:
        time.sleep(_POLL_S)
    return held


def freeze(vm_signal: Callable[[signal.Signals], None], fault: Freeze) -> None:
    """Let a process stand still for as long as the fault says; returns at once."""
    vm_signal(signal.SIGSTOP)
    threading.Timer(fault.duration_ms / 1000, vm_signal, [signal.SIGCONT]).start()


def processes_with(mark: str) -> Iterator[int]:
    """Yield the processes that have inherited this in their environment."""
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            with suppress(OSError):
                if mark.encode() in (directory / "environ").read_bytes():
                    yield int(directory.name)
