"""The monitor of a modelled QEMU, as `client/monitor.py` wants one, and what may befall its client."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol, Self

from vmferry.client.qmp_client import DEFAULT_TIMEOUT_S, HURRIED_TIMEOUT_S, Event, result_of
from vmferry.errors import CommandError, HostError, MonitorError, VmferryError
from vmferry.simulation.process import Steps, start
from vmferry.simulation.qemu.board import Board
from vmferry.simulation.qemu.settings import GENERIC
from vmferry.units import NS_PER_MS, NS_PER_S

_LOOK_NS = NS_PER_MS


class Served(Protocol):
    """What a monitor belongs to."""

    board: Board
    is_there: bool
    """False once its process has ended."""

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """Carry out a QMP command. Raises CommandError."""
        ...

    def yank(self) -> None:
        """Break the migration's connection. Raises CommandError if there is none."""
        ...


class Mishap(StrEnum):
    """What may befall a command."""

    LOST = "lost"
    """The connection is lost before the command is there."""
    UNANSWERED = "unanswered"
    """It is lost once the command was carried out, before the answer."""
    REFUSED = "refused"
    """QEMU refuses the command."""
    SILENT = "silent"
    """QEMU's main loop stands still from then on, for `duration_ns`."""


@dataclass(frozen=True)
class Fault:
    """One mishap: at the n-th command of a client, counted from 1, or the n-th of a name."""

    mishap: Mishap
    number: int
    command: str | None = None
    duration_ns: int = 0


class ModelledMonitor:
    """One client's connection. Implements the `Monitor` protocol."""

    manager = None
    descriptor = None

    def __init__(
        self,
        qemu: Served,
        where: str = "modelled:source",
        faults: Iterable[Fault] = (),
        while_waiting: Callable[[], None] = lambda: None,
    ) -> None:
        """`while_waiting` is called again and again while an answer is waited for, as with `open_monitor`."""
        self.where = where
        self.commands: list[str] = []
        """The commands that were sent, in order."""
        self.mishaps: list[Mishap] = []
        """What has befallen them."""
        self._qemu = qemu
        self._clock = qemu.board.clock
        self._faults = list(faults)
        self._while_waiting = while_waiting
        self._counts: Counter[str] = Counter()
        self._timeout_ns = round(DEFAULT_TIMEOUT_S * NS_PER_S)
        self._sent_events: list[Event] = []
        self._events: list[Event] = []
        self._open = True
        qemu.board.listeners.append(self._sent_events)

    @property
    def peer_pid(self) -> int:
        """There is no process."""
        raise HostError("the VM is modelled and has no process")

    def execute(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        """Let the time pass that a command takes, and return its answer. Raises as the protocol says."""
        mishap = self._mishap(command)
        answer_ns = self._qemu.board.answer_ns()
        self._wait(answer_ns // 2)
        if mishap is Mishap.LOST:
            self._lose()
        self._await_main_loop(command, arguments or {})
        if mishap is Mishap.REFUSED:
            raise CommandError("refused by chance", GENERIC)
        try:
            answer = self._qemu.execute(command, arguments or {})
        finally:
            self._wait(answer_ns // 2)
            self._take_in()
            if mishap is Mishap.UNANSWERED:
                self._lose()
        return _checked(command, answer)

    def execute_out_of_band(self, command: str, arguments: Mapping[str, object]) -> Any:
        """Carry out `yank`, whatever QEMU waits for. Raises as the protocol says."""
        self.commands.append(command)
        self._wait(self._qemu.board.answer_ns())
        self._qemu.yank()
        return {}

    def take_events(self) -> list[Event]:
        """Return the events that came along with answers so far, and forget them."""
        events, self._events = self._events, []
        return events

    def hurry(self) -> None:
        """Wait only briefly for answers from now on."""
        self._timeout_ns = min(self._timeout_ns, round(HURRIED_TIMEOUT_S * NS_PER_S))

    def close(self) -> None:
        """Close the connection; harmless if it is closed."""
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _mishap(self, command: str) -> Mishap | None:
        self.commands.append(command)
        self._counts[command] += 1
        for fault in self._faults:
            number = self._counts[fault.command] if fault.command else len(self.commands)
            if number == fault.number and fault.command in (None, command):
                self.mishaps.append(fault.mishap)
                if fault.mishap is Mishap.SILENT:
                    start(self._clock, self._stand_still(fault.duration_ns))
                return fault.mishap
        return None

    def _stand_still(self, duration_ns: int) -> Steps:
        with self._qemu.board.lock():
            yield duration_ns

    def _await_main_loop(self, command: str, arguments: Mapping[str, Any]) -> None:
        """Wait until QEMU's main loop answers. One that does not, may carry the command out later."""
        end_ns = self._clock.now_ns() + self._timeout_ns
        try:
            while self._qemu.board.is_locked:
                self._while_waiting()
                if self._clock.now_ns() >= end_ns:
                    raise MonitorError(f"the monitor at {self.where} does not answer {command}")
                self._wait(_LOOK_NS)
        except VmferryError:
            start(self._clock, self._carry_out_later(command, arguments))
            raise

    def _carry_out_later(self, command: str, arguments: Mapping[str, Any]) -> Steps:
        while self._qemu.board.is_locked:
            yield _LOOK_NS
        with suppress(CommandError):  # nobody hears it
            self._qemu.execute(command, arguments)

    def _wait(self, duration_ns: int) -> None:
        if not self._open or not self._qemu.is_there:
            raise MonitorError(f"the monitor at {self.where} is gone: Broken pipe")
        self._clock.sleep_ns(duration_ns)

    def _take_in(self) -> None:
        self._events += self._sent_events
        self._sent_events.clear()

    def _lose(self) -> None:
        self.close()
        raise MonitorError(f"the monitor at {self.where} closed the connection")


def _checked(command: str, answer: Any) -> Any:
    """Return an answer that a client takes for one."""
    try:
        return result_of(command, {"return": answer})
    except ValueError as error:
        raise MonitorError(str(error)) from error
