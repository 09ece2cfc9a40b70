"""Where a modelled QEMU migrates to: a QEMU that waits for a guest, in as much detail as a driver sees."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vmferry.errors import CommandError
from vmferry.simulation.qemu.board import Board
from vmferry.units import NS_PER_MS

WAITING, PAUSED, RUNNING = "inmigrate", "paused", "running"
_LOAD_NS = 3 * NS_PER_MS


@dataclass(frozen=True)
class LoadModel:
    """How a modelled destination takes a guest."""

    load_ns: int = _LOAD_NS
    """How long it takes to load the guest once all of it was sent."""
    refusal: str = ""
    """Why it cannot load it, and ends; empty if it can."""


LOADS = LoadModel()
"""How a destination takes the guest that does nothing unusual."""


class ModelledDestination:
    """Serves one migration; its monitor knows only what a driver needs."""

    def __init__(self, board: Board, load_model: LoadModel = LOADS, uri: str = "") -> None:
        """It listens at `uri`; if that is empty, wherever it is looked for."""
        self.board = board
        self.load_model = load_model
        self.run_state = WAITING
        self.is_there = True
        """False once its process has ended."""
        self._uri = uri
        self._autostart = True
        self._taken = False
        self.was_given_a_guest = False
        """True once all of one was sent."""

    @property
    def runs_guest(self) -> bool:
        """True while the guest runs here."""
        return self.is_there and self.run_state == RUNNING

    def accept(self, uri: str) -> bool:
        """Take a migration's connection; False if nobody listens there, or no longer."""
        if not self.is_there or self._taken or self._uri not in ("", uri):
            return False
        self._taken = True
        return True

    def load(self, *, ran: bool) -> bool:
        """Load a guest, all of which was sent, and let it run if it ran before. Returns whether it could."""
        self.was_given_a_guest = True
        if self.load_model.refusal:
            self.lose()
        if self.is_there:
            runs = ran and self._autostart
            self.run_state = RUNNING if runs else PAUSED
            self.board.tell("RESUME" if runs else "STOP")
        return self.is_there

    def lose(self) -> None:
        """The connection has ended before all was there: QEMU ends then."""
        if self.run_state == WAITING:
            self.is_there = False

    def execute(self, command: str, arguments: Mapping[str, Any]) -> Any:
        """Carry out a QMP command. Raises CommandError."""
        match command:
            case "query-status":
                return {"status": self.run_state, "running": self.run_state == RUNNING}
            case "query-migrate":
                return {}
            case "stop" | "cont":
                self._set_running(command == "cont")
                return {}
        raise unknown(command)

    def yank(self) -> None:
        """Nothing is broken here."""

    def _set_running(self, running: bool) -> None:
        if self.run_state == WAITING:
            self._autostart = running
        else:
            self.run_state = RUNNING if running else PAUSED


def unknown(command: str) -> CommandError:
    """Return the error for a command that there is not."""
    return CommandError(f"The command {command} has not been found", "CommandNotFound")
