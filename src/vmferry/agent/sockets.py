"""Finds VMs by their monitors in a directory: every unix socket there is one, whatever else lies there is not.

A monitor of QEMU's serves one client at a time, so these are the agent's own. Each is asked a little more often than
once per second whether its VM migrates.
"""

import os
import stat
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from vmferry.agent.attendants import Attendants, Attended
from vmferry.agent.rules import Mode, Vm
from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor, open_monitor
from vmferry.control.arriving.destination import WAITING
from vmferry.control.asking.progress import Progress, ask
from vmferry.control.asking.run_states import run_state
from vmferry.errors import CommandError, HostError, MonitorError, UsageError

_LOOK_S = 0.5
_POLL_S = 0.8
_STATE_S = 3.0
"""How often it is asked whether the guest runs."""
_RETRY_S = 2.0
"""How long a monitor is left alone that could not be reached."""
_IGNORED_S = 2.0
_SNAPSHOT = "background-snapshot"


def sockets_in(directory: str, known: Collection[str] = ()) -> Iterator[str]:
    """Yield the paths of the sockets in a directory but for those known. Raises HostError if it cannot be read."""
    try:
        paths = sorted(str(Path(directory) / name) for name in os.listdir(directory))
    except OSError as error:
        raise HostError(f"cannot look for monitors in {directory}: {error.strerror}", error.errno) from error
    return (path for path in paths if path not in known and _is_socket(path))


def identify(monitor: Monitor, path: str) -> Vm:
    """Ask a VM who it is; one without a name goes by that of its socket. Raises MonitorError."""
    name = monitor.execute("query-name").get("name") or Path(path).stem
    return Vm(name=name, uuid=_uuid(monitor))


def find_sockets(directory: str, attendants: Attendants, cancel: CancelToken) -> None:
    """Attend to each monitor until the end, as they come and go."""
    told = ""
    while not attendants.stop.is_set():
        try:
            for path in sockets_in(directory, attendants.keys()):
                attendants.begin(path, _SocketAttendant(path, attendants).attend)
            told = ""
        except HostError as error:
            if str(error) != told:
                told = str(error)
                attendants.log.warn(f"{told}; that is tried again")
        attendants.stop.wait(_LOOK_S)


class _SocketAttendant:
    """Attends to the VM behind one monitor, as long as that is there."""

    def __init__(self, path: str, attendants: Attendants) -> None:
        self._path = path
        self._attendants = attendants
        self._attended: Attended | None = None
        self._state_s = 0.0
        """When it is to be asked next whether the guest runs."""

    def attend(self, cancel: CancelToken) -> None:
        """Follow every migration of the VM. Raises CancelledError at the end."""
        try:
            while True:
                vm, progress = self._await_migration(cancel)
                self._attendants.followers.follow(f"unix:{self._path}", vm, progress)
                cancel.check()
        except (MonitorError, UsageError) as error:
            if self._attended:
                vm = self._attended.vm
                self._attendants.log.info(f"no more attended to: {error}", vm=vm.name, uuid=vm.uuid)
            else:
                self._attendants.complain(self._path, str(error))
            self._attendants.attended.pop(self._path, None)
            self._wait(_RETRY_S, cancel)

    def _await_migration(self, cancel: CancelToken) -> tuple[Vm, Progress]:
        """Return the VM once it migrates, and how far that is. While it is ignored, its monitor is left to others."""
        while True:
            with open_monitor(f"unix:{self._path}", while_waiting=cancel.check) as monitor:
                vm = identify(monitor, self._path)
                attended = self._attend(vm)
                while not self._is_ignored(vm):
                    if (progress := ask(monitor)).running and _leaves(monitor):
                        attended.state = None
                        return vm, progress
                    self._look(attended, monitor)
                    self._wait(_POLL_S, cancel)
            attended.state = None
            while self._is_ignored(vm):
                self._wait(_IGNORED_S, cancel)

    def _attend(self, vm: Vm) -> Attended:
        """Take note of who is behind the monitor."""
        if self._attended is None or vm != self._attended.vm:
            self._attended = self._attendants.attend_to(self._path, vm)
        self._state_s = 0.0
        return self._attended

    def _look(self, attended: Attended, monitor: Monitor) -> None:
        """Do what others want to be done at the monitor."""
        if time.monotonic() >= self._state_s:
            attended.state = run_state(monitor)
            self._state_s = time.monotonic() + _STATE_S
        while attended.asked:
            attended.asked.popleft()(monitor)

    def _is_ignored(self, vm: Vm) -> bool:
        return self._attendants.followers.rule_for(vm).rule.mode is Mode.IGNORE

    def _wait(self, wait_s: float, cancel: CancelToken) -> None:
        self._attendants.stop.wait(wait_s)
        cancel.check()


def _leaves(monitor: Monitor) -> bool:
    """Tell whether the guest is what is moved away: it does not come, nor is it written to a snapshot."""
    capabilities = monitor.execute("query-migrate-capabilities")
    return run_state(monitor) != WAITING and {"capability": _SNAPSHOT, "state": True} not in capabilities


def _uuid(monitor: Monitor) -> str:
    try:
        return str(monitor.execute("query-uuid")["UUID"])
    except CommandError:
        return ""


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return False
