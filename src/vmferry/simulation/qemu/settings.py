"""Migration parameters and capabilities of a modelled QEMU, with its refusals in its words.

Source: QEMU `migration/options.c`; of the values of a command, all are set or none.
"""

from collections.abc import Mapping
from typing import Any

from vmferry.errors import CommandError, UsageError
from vmferry.settings.parameter_spec import ParameterSpec
from vmferry.settings.parameters import PARAMETERS, find_parameter
from vmferry.settings.qapi_types import check_builtin
from vmferry.simulation.qemu.releases import Release

GENERIC = "GenericError"


def refuse(text: str) -> CommandError:
    """Return the error of a command that QEMU refuses."""
    return CommandError(text, GENERIC)


class ModelledSettings:
    """The parameters and capabilities that are in force in a modelled QEMU."""

    def __init__(self, release: Release) -> None:
        self.parameters: dict[str, Any] = dict(release.parameters)
        """The parameters' values by QMP name."""
        self.capabilities = dict.fromkeys(release.capabilities, False)

    def set_parameters(self, values: Mapping[str, object]) -> None:
        """Set parameters. Raises CommandError."""
        for name, value in values.items():
            self._check(name, value)
        merged = {**self.parameters, **values}
        if merged["max-cpu-throttle"] < merged["cpu-throttle-initial"]:
            raise refuse(PARAMETERS["max-cpu-throttle"].range_error)
        self.parameters = merged

    def set_capabilities(self, entries: object) -> None:
        """Set capabilities, given as QMP's list of them. Raises CommandError."""
        if not isinstance(entries, list):
            raise refuse("Parameter 'capabilities' is missing")
        states = {entry["capability"]: entry["state"] for entry in entries}
        for name, state in states.items():
            if name not in self.capabilities:
                raise refuse(f"Parameter 'capability' does not accept value '{name}'")
            if not isinstance(state, bool):
                raise refuse("Invalid parameter type for 'capabilities[0].state', expected: boolean")
        self.capabilities |= states

    def as_list(self) -> list[dict[str, object]]:
        """Return the capabilities as QMP tells them."""
        return [{"capability": name, "state": state} for name, state in self.capabilities.items()]

    def _check(self, name: str, value: object) -> None:
        try:
            if name not in self.parameters:
                raise UsageError(f"Parameter '{name}' is unexpected")
            ParameterSpec.check(find_parameter(name), value)  # also what is inert in our own VMs
        except UsageError as error:
            raise refuse(str(error)) from error


def check_argument(arguments: Mapping[str, object], name: str, qapi_type: str) -> Any:
    """Return an argument of a command. Raises CommandError if it is missing or of another type."""
    if name not in arguments:
        raise refuse(f"Parameter '{name}' is missing")
    try:
        check_builtin(name, qapi_type, arguments[name])
    except UsageError as error:
        raise refuse(str(error)) from error
    return arguments[name]
