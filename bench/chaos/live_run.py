"""One migration of a real VM, driven by `vmferry migrate`, through the proxy; and what was seen of it from outside."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from bench.chaos.bodies import Body, Settings
from bench.chaos.check import Ended, Observation, Side, killed
from bench.chaos.faults import AnyFault, Freeze, Kill, Party
from bench.chaos.proxy import Incident, Proxy, play
from bench.chaos.vms import Vm, freeze, holds, processes_with
from vmferry.transport.uri import Address, TcpAddress, UnixAddress, parse_uri

_DRIVER_S = 90.0
"""The sum of the time limits of a migration, and some for a slow machine."""
_PATIENCE_S = 10.0
"""Then somebody cancels a migration that nobody drives any more."""
_END_S = 45.0
_UNDO_S = 15.0
_LOOK_S = 0.02
_MARK = "VMFERRY_CHAOS"
_RAN = {"running", "internal-error", "shutdown"}
"""Where a guest was let run; it may have crashed then."""
_ENDED = {
    "completed": Ended.COMPLETED,
    "cancelled": Ended.CANCELLED,
    "none": Ended.CANCELLED,
    "failed": Ended.FAILED,
    "in-doubt": Ended.IN_DOUBT,
}


class LiveRun:
    """One migration with a fault."""

    def __init__(self, body: Body, source: Vm, destination: Vm, settings: Settings, fault: AnyFault) -> None:
        self.recording = b""
        """What the source has sent."""
        self._body = body
        self._source = source
        self._destination = destination
        self._settings = settings
        self._fault = fault
        self._driver: subprocess.Popen[str] | None = None
        self._mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self._both_ran = False
        self._overdue: list[str] = []

    def carry_out(self, proxy_uri: str, pages_per_s: float, played: bytes) -> Observation:
        """Migrate, wait until nothing changes any more, and return what was to be seen.

        `pages_per_s` is the guest's own speed; the destination is sent `played` before.
        """
        before = self._source.state()
        written_pages = self._source.process.progress().written_pages
        incoming = self._incoming_address()
        if played:
            play(incoming, played)
            self._look()
        with Proxy(parse_uri(proxy_uri), incoming, self._fault, self._act) as proxy:
            exit_code, last_words = self._drive(str(proxy.address))
            self._await("the migration does not end", self._has_ended, self._cancel)
        self.recording = bytes(proxy.recording)
        self._await("the destination neither runs the guest nor gives up", self._has_arrived_or_not)
        seen = Observation(
            fault=self._fault,
            has_fired=proxy.has_fired,
            ended=self._ended(),
            source=_side(self._source),
            destination=_side(self._destination),
            both_ran=self._both_ran,
            has_window=self._body.has_window(self._settings),
            is_protected=self._is_protected(),
            last_words=last_words,
        )
        return msgspec.structs.replace(
            seen,
            exit_code=None if killed(seen) is Party.DRIVER else exit_code,
            damage=self._damage(seen, written_pages, pages_per_s),
            left_behind=tuple(self._left_behind(before, incoming)),
            overdue=tuple(self._overdue),
        )

    def _is_protected(self) -> bool:
        """A VM that decides itself says afterwards whether all memory was compared."""
        return self._body.protects(self._settings, self._fault.place) or self._source.migration().get("verified", False)

    def _incoming_address(self) -> Address:
        [address] = self._destination.ask("query-migrate")["socket-address"]
        if address["type"] == "unix":
            return UnixAddress(address["path"])
        return TcpAddress(address["host"], int(address["port"]))

    def _drive(self, uri: str) -> tuple[int, str]:
        """Let the command migrate, and look meanwhile; return its exit code and its last line."""
        words = ["migrate", "--qmp", self._source.drive_address, "--json", *self._settings.words(), *self._body.words]
        words += ["--destination-qmp", self._destination.drive_address] if self._settings.destination_monitor else []
        self._driver = subprocess.Popen(
            [sys.executable, "-m", "vmferry", *words, uri],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {_MARK: self._mark},
            process_group=0,
        )
        end_s = time.monotonic() + _DRIVER_S
        while self._driver.poll() is None:
            self._look()
            if time.monotonic() > end_s:
                self._overdue.append(f"the driver still runs after {_DRIVER_S:.0f} s")
                self._driver.kill()
            time.sleep(_LOOK_S)
        assert self._driver.stdout
        with self._driver.stdout as output:
            lines = output.read().strip()
        return self._driver.wait(), lines if "Traceback" in lines else lines.rpartition("\n")[2]

    def _look(self) -> None:
        """The guest only ever goes from here to there, so if it runs there, and here later, there are two."""
        self._both_ran |= self._destination.run_state() == "running" and self._source.run_state() == "running"

    def _act(self, fault: Incident) -> None:
        """Hit a process."""
        assert self._driver
        send = {
            Party.SOURCE: self._source.signal,
            Party.DESTINATION: self._destination.signal,
            Party.DRIVER: self._driver.send_signal,
        }
        match fault:
            case Kill(who=who):
                send[who](signal.SIGKILL)
            case Freeze(who=who):
                freeze(send[who], fault)
            case _:
                self._driver.send_signal(signal.SIGINT)

    def _await(self, complaint: str, condition: Callable[[], bool], hurry: Callable[[], None] = lambda: None) -> None:
        if not holds(condition, _PATIENCE_S):
            hurry()
            if not holds(condition, _END_S):
                self._overdue.append(f"{complaint} in {_PATIENCE_S + _END_S:.0f} s")

    def _has_ended(self) -> bool:
        self._look()
        return self._source.migration().get("status") in (None, *_ENDED)

    def _cancel(self) -> None:
        self._source.ask("migrate_cancel")

    def _has_arrived_or_not(self) -> bool:
        """Tell whether the destination has come to an end, or waits for another source."""
        if self._source.migration().get("status") == "completed":
            return not self._destination.alive or self._destination.run_state() in _RAN
        return self._destination.migration().get("status") != "active"

    def _ended(self) -> Ended:
        return _ENDED.get(self._source.migration().get("status", ""), Ended.UNKNOWN)

    def _damage(self, seen: Observation, written_pages: int, pages_per_s: float) -> str:
        """Look at the guest where it is; one that is in doubt and not there goes on here, as a person would decide."""
        if seen.destination.runs:
            return self._destination.damage(written_pages, pages_per_s)
        if seen.ended is Ended.IN_DOUBT:
            self._source.process.monitor.execute("cont", {"force": True})
        if seen.source.runs or seen.ended is Ended.IN_DOUBT:
            return self._source.damage(written_pages, pages_per_s)
        return ""

    def _left_behind(self, before: dict[str, object], incoming: Address) -> Iterator[str]:
        if not holds(lambda: not list(processes_with(self._mark)), _UNDO_S):
            yield f"processes {list(processes_with(self._mark))}"
        if self._source.alive:
            yield from self._source.differences(before, set(before))
        ended_by_itself = self._destination.process.process.poll() not in (None, -signal.SIGKILL)
        if (
            isinstance(incoming, UnixAddress)
            and not self._destination.is_qemu
            and ended_by_itself
            and Path(incoming.path).exists()
        ):
            yield f"the socket '{incoming.path}'"


def _side(vm: Vm) -> Side:
    return Side(alive=vm.alive, runs=vm.run_state() in _RAN)
