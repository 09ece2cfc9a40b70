"""The process that undoes what a driver did to a VM: `python -m vmferry.control.undoing.undo`, started by `guard.py`.

It collects promises from a pipe. When the pipe ends it keeps them, the last first, and what waits for nobody before
what does: quotas, groups, commands, and once no migration runs any more, settings that it needs, for which it leaves
the monitor to others meanwhile. It is in a session of its own and deaf to the terminal's signals, so what
hits the driver does not hit it. What cannot be done yet is tried again, in the end once a second, as long as the VM is
there. What takes long or is given up is told on stderr and in the system's log, with the command that does it.

There is one beside each driven migration. So it begins with few modules, and loads what speaks with monitors once
something is to be undone by it.
"""

import functools
import io
import json
import signal
import sys
import syslog
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmferry.client.processes import Thread
from vmferry.clock import MonotonicClock
from vmferry.control.host.cgroup import find_hierarchy
from vmferry.control.host.own_group import OwnGroup
from vmferry.control.undoing.let_run import LetRun
from vmferry.control.undoing.undo_steps import DissolveGroup, PutBack, SendCommand, SetBack, TakeCpuBack, Undo
from vmferry.control.undoing.way_in import Connect, WayIn, open_way_in
from vmferry.errors import CommandError
from vmferry.output import Output
from vmferry.units import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from vmferry.migration.ports import Clock

TOLD_AFTER_S = 5.0
PATIENCE_S = 600.0
"""How long to try if nobody can tell whether the VM is still there."""
AFTERMATH_S = 10.0
"""How long to try to clear away what a VM leaves behind when it ends."""
_STILL, _GIVEN_UP = (
    "a change to a VM is not undone yet and is tried again; by hand",
    "a change to a VM was not undone; by hand",
)
_FIRST_PAUSE_NS, _LONGEST_PAUSE_NS = 20 * NS_PER_MS, NS_PER_S


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
    keep(promises, MonotonicClock())


def keep(
    promises: Mapping[int, list[Any]],
    clock: "Clock",
    connect: Connect = open_way_in,
    tell: Callable[[str], object] | None = None,
) -> None:
    """Keep promises by their numbers; `connect` opens monitors, and `tell` gets lines for people."""
    way_to = functools.cache(functools.partial(_way, connect))  # as those to one VM share a connection
    ways = [way_to(*promise[1:]) for promise in promises.values() if promise[0] == "vm"]
    way_in = ways[0] if ways else None
    undo(_steps(promises, way_in, way_to), way_in, clock, tell)
    for way in ways:
        way.let_go()  # what is left may have to wait for long
    undo(_waiting_steps(promises, way_to), way_in, clock, tell)


def _way(connect: Connect, address: str, descriptor: int | None, pid: int | None, start_ticks: int | None) -> WayIn:
    process = None if pid is None or start_ticks is None else Thread(pid, start_ticks)
    return WayIn(address, descriptor, process, connect)


def _steps(promises: Mapping[int, list[Any]], way_in: WayIn | None, way_to: Callable[..., WayIn]) -> list[Undo]:
    """Return what is to be done at once, in this order."""
    kept = _kept(promises)
    groups: list[Undo] = []
    commands: list[Undo] = []
    for number, promise in sorted(promises.items(), reverse=True):
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
                commands.append(LetRun(way_in, way_to(*way), ran))
    return groups + commands


def _waiting_steps(promises: Mapping[int, list[Any]], way_to: Callable[..., WayIn]) -> list[Undo]:
    """Return what is to be done once no migration runs any more."""
    changes: dict[WayIn, list[Mapping[str, Any]]] = {}
    for number, promise in sorted(promises.items(), reverse=True):
        match promise:
            case ["put-back", made, *way] if number not in _kept(promises):
                changes.setdefault(way_to(*way), []).extend(made)
    return [PutBack(way, made) for way, made in changes.items()]


def _kept(promises: Mapping[int, list[Any]]) -> set[int]:
    return {promise[1] for promise in promises.values() if promise[0] == "kept"}


def undo(
    steps: Sequence[Undo], way_in: WayIn | None, clock: "Clock", tell: Callable[[str], object] | None = None
) -> None:
    """Carry the steps out; go on for as long as it can help. `tell` gets lines for people."""
    for step in steps:
        if isinstance(step, DissolveGroup):
            step.group.let_run(step.hierarchy)  # all of them, before the first waits for anything
    trying = _Trying(way_in, clock, tell or _tell)
    pause_ns = _FIRST_PAUSE_NS
    while steps := [step for step in steps if not trying.attempt(step)]:
        if not trying.goes_on(steps):
            break
        clock.sleep_ns(pause_ns)
        pause_ns = min(2 * pause_ns, _LONGEST_PAUSE_NS)


class _Trying:
    """Tries to undo: for how long, and what people are told meanwhile."""

    def __init__(self, way_in: WayIn | None, clock: "Clock", tell: Callable[[str], object]) -> None:
        self._way_in = way_in
        self._clock = clock
        self._tell = tell
        self._start_s = self._now_s
        self._gone_since_s: float | None = None
        self._told = False

    def attempt(self, step: Undo) -> bool:
        """Try a step; True if it is done or never can be."""
        try:
            return step.attempt()
        except CommandError as error:
            self._tell(f"the VM refuses what undoes a change ({error}): {step.by_hand()}")
            return True

    def goes_on(self, left: Sequence[Undo]) -> bool:
        """Tell of what is left once that takes long, and whether it is tried again."""
        now_s = self._now_s
        if self._way_in and self._way_in.vm_is_gone and self._gone_since_s is None:
            self._gone_since_s = now_s
        goes_on = now_s < self._end_s
        if not goes_on or (not self._told and now_s > self._start_s + TOLD_AFTER_S):
            self._told = True
            for step in left:
                self._tell(f"{_STILL if goes_on else _GIVEN_UP}: {step.by_hand()}")
        return goes_on

    @property
    def _now_s(self) -> float:
        return self._clock.now_ns() / NS_PER_S

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
