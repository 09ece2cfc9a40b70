"""The process that undoes what a driver did to a VM: `python -m vmferry.control.undo`, started by `guard.py`.

It collects promises from a pipe. When the pipe ends it keeps them, the last first, and what waits for nobody before
what does: quotas, groups, then commands. It is in a session of its own and deaf to the terminal's signals, so what
hits the driver does not hit it. What cannot be done yet is tried again, in the end once a second, as long as the VM is
there. What takes long or is given up is told on stderr and in the system's log, with the command that does it.
"""

import io
import json
import signal
import sys
import syslog
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from vmferry.client.processes import Thread
from vmferry.control.cgroup import find_hierarchy
from vmferry.control.let_run import LetRun
from vmferry.control.own_group import OwnGroup
from vmferry.control.undo_steps import DissolveGroup, SendCommand, SetBack, TakeCpuBack, Undo
from vmferry.control.way_in import WayIn
from vmferry.errors import CommandError
from vmferry.output import Output

TOLD_AFTER_S = 5.0
PATIENCE_S = 600.0
"""For a VM of which it cannot be told whether it is still there."""
AFTERMATH_S = 10.0
"""For what a VM leaves behind when it ends."""
_STILL, _GIVEN_UP = (
    "a change to a VM is not undone yet and is tried again; by hand",
    "a change to a VM was not undone; by hand",
)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 1.0


def main() -> None:
    """Collect promises until the pipe ends, then keep them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    print("ready", flush=True)
    promises: dict[int, list[Any]] = {}
    for line in sys.stdin:
        with suppress(json.JSONDecodeError):  # torn off by the driver's death; that step was not taken
            number, *promise = json.loads(line)
            promises[number] = promise
    way_in = _way_in(promises.values())
    undo(_steps(promises, way_in), way_in)


def _way_in(promises: Iterable[list[Any]]) -> WayIn | None:
    for promise in promises:
        match promise:
            case ["vm", *way]:
                return _way(*way)
    return None


def _way(address: str, descriptor: int | None, pid: int | None, start_ticks: int | None) -> WayIn:
    return WayIn(address, descriptor, None if pid is None or start_ticks is None else Thread(pid, start_ticks))


def _steps(promises: dict[int, list[Any]], way_in: WayIn | None) -> list[Undo]:
    """Return what is to be done, in this order."""
    kept = {promise[1] for promise in promises.values() if promise[0] == "kept"}
    groups: list[Undo] = []
    commands: list[Undo] = []
    for number, promise in reversed(promises.items()):
        match promise:
            case ["group", thread_id, start_ticks, home, inode]:
                group = OwnGroup(Thread(thread_id, start_ticks), Path(home), inode)
                groups.append(DissolveGroup(group, find_hierarchy()))
            case ["take-cpu-back", group, inode]:
                groups.append(TakeCpuBack(Path(group), inode))
            case ["send", command, arguments] if way_in and number not in kept:
                commands.append(SendCommand(way_in, command, arguments))
            case ["set-back", before, ours] if way_in and number not in kept:
                commands.append(SetBack(way_in, before, ours))
            case ["let-run", ran, *way] if way_in and number not in kept:
                commands.append(LetRun(way_in, _way(*way), ran))
    return groups + commands


def undo(steps: Sequence[Undo], way_in: WayIn | None) -> None:
    """Carry the steps out; go on for as long as it can help."""
    for step in steps:
        if isinstance(step, DissolveGroup):
            step.group.let_run(step.hierarchy)  # all of them, before the first waits for anything
    trying = _Trying(way_in)
    pause_s = _FIRST_PAUSE_S
    while steps := [step for step in steps if not trying.attempt(step)]:
        if not trying.goes_on(steps):
            break
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class _Trying:
    """How long it is tried, and what is told of it."""

    def __init__(self, way_in: WayIn | None) -> None:
        self._way_in = way_in
        self._start_s = time.monotonic()
        self._gone_since_s: float | None = None
        self._told = False

    def attempt(self, step: Undo) -> bool:
        """Try a step; True if it is done or never can be."""
        try:
            return step.attempt()
        except CommandError as error:
            _tell(f"the VM refuses what undoes a change ({error}): {step.by_hand()}")
            return True

    def goes_on(self, left: Sequence[Undo]) -> bool:
        """Tell of what is left once that takes long, and whether it is tried again."""
        now_s = time.monotonic()
        if self._way_in and self._way_in.vm_is_gone and self._gone_since_s is None:
            self._gone_since_s = now_s
        goes_on = now_s < self._end_s
        if not goes_on or (not self._told and now_s > self._start_s + TOLD_AFTER_S):
            self._told = True
            for step in left:
                _tell(f"{_STILL if goes_on else _GIVEN_UP}: {step.by_hand()}")
        return goes_on

    @property
    def _end_s(self) -> float:
        """When nothing more is tried."""
        if self._gone_since_s is not None:
            return self._gone_since_s + AFTERMATH_S
        known = self._way_in is not None and self._way_in.vm_is_known
        return float("inf") if known else self._start_s + PATIENCE_S


def _tell(text: str) -> None:
    """Tell people, wherever they look, without waiting for them."""
    syslog.syslog(syslog.LOG_WARNING, f"vmferry: {text}")
    with suppress(OSError), Output(io.FileIO(2, "wb", closefd=False), "stderr", lambda text: None) as output:
        output.write(f"vmferry: {text}\n".encode())


if __name__ == "__main__":
    main()
