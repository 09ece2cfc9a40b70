"""Capabilities and parameters of a VM: changed for one migration, put back after it."""

from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Self

from vmferry.control.behind import Behind
from vmferry.control.guard import Guard
from vmferry.control.monitor import Monitor
from vmferry.errors import CommandError, HostError, MonitorError


class Settings:
    """Changes what it is told to and nothing else. A context manager that puts back what it has changed."""

    def __init__(self, monitor: Monitor, behind: Behind) -> None:
        self._monitor = monitor
        self._behind = behind
        self._parameters: dict[str, object] = {}
        self._capabilities: dict[str, bool] = {}
        self._promised: Guard | None = None

    def set_parameters(self, values: Mapping[str, object], guard: Guard | None = None) -> None:
        """Set parameters; a guard puts them back if we cannot.

        Raises CommandError if the VM refuses one; then none is set.
        """
        if values:
            before = {name: self._behind.parameters[name] for name in values if name in self._behind.parameters}
            if guard:
                self._promised = guard
                guard.will_send(self._monitor.where, "migrate-set-parameters", before)
            self._monitor.execute("migrate-set-parameters", dict(values))
            self._parameters = before | self._parameters

    def set_capability(self, name: str, state: bool) -> None:
        """Set a capability unless it is so already. Raises CommandError, for instance while a migration runs."""
        if self._behind.capabilities.get(name, False) != state:
            self._send_capabilities({name: state})
            self._capabilities[name] = not state

    def put_back(self) -> None:
        """Set everything to what it was. A VM that is gone, or refuses, is left as it is."""
        parameters, self._parameters = self._parameters, {}
        capabilities, self._capabilities = self._capabilities, {}
        with suppress(MonitorError, HostError):
            with suppress(CommandError):
                if parameters:
                    self._monitor.execute("migrate-set-parameters", parameters)
            with suppress(CommandError):
                if capabilities:
                    self._send_capabilities(capabilities)
            if self._promised:
                self._promised.sent()

    def _send_capabilities(self, states: Mapping[str, bool]) -> None:
        entries = [{"capability": name, "state": state} for name, state in states.items()]
        self._monitor.execute("migrate-set-capabilities", {"capabilities": entries})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, MonitorError) or isinstance(error, CommandError):  # nobody answers
            self.put_back()
