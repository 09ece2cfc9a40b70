"""The migration parameters as options of a command, made from the parameter table."""

from collections.abc import Callable, Mapping
from typing import Any

import click

from vmferry.cli.types import DIRECTORY_OR_ID, DURATION_MS, FILE_OR_NONE, RATE_WITH_UNIT, SIZE_WITH_UNIT
from vmferry.errors import UsageError
from vmferry.settings.parameter_spec import ParameterSpec
from vmferry.settings.parameters import PARAMETERS
from vmferry.units import format_rate, format_size

SECRETS = ("token-file", "tls-creds", "tls-hostname", "tls-authz")
"""Parameters that tell who may take part, and nothing of how a migration goes."""


class ParameterOption(click.Option):
    """An option that sets a migration parameter."""


class ParameterCommand(click.Command):
    """A command whose help lists migration parameters, which are many, below its other options."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write both lists."""
        records: dict[bool, list[tuple[str, str]]] = {False: [], True: []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record:
                records[isinstance(parameter, ParameterOption)].append(record)
        for title, is_of_parameters in (("Options", False), ("Migration parameters", True)):
            with formatter.section(title):
                formatter.write_dl(records[is_of_parameters])


def parameter_options(*left_out: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return a decorator that adds one option for each row of the parameter table but those."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for spec in reversed(PARAMETERS.values()):
            if spec.name not in left_out:
                command = _option(spec)(command)
        return command

    return decorate


def _option(spec: ParameterSpec) -> Callable[[Callable[..., None]], Callable[..., None]]:
    flag = f"--{spec.name}/--no-{spec.name}" if spec.qapi_type == "bool" else f"--{spec.name}"
    return click.option(flag, cls=ParameterOption, type=_option_type(spec), default=None, help=_help(spec))


def _option_type(spec: ParameterSpec) -> click.ParamType[Any]:
    if spec.unit == "bytes/second":
        return RATE_WITH_UNIT
    if spec.unit == "bytes":
        return SIZE_WITH_UNIT
    if spec.unit == "ms":
        return DURATION_MS
    match spec.qapi_type:
        case "bool":
            return click.BOOL
        case "enum":
            return click.Choice([str(choice) for choice in spec.choices])
        case "str":
            return FILE_OR_NONE if spec.name.endswith("-file") else click.STRING
        case "StrOrNull":
            return DIRECTORY_OR_ID if spec.name == "tls-creds" else click.STRING
        case _:
            return click.INT


def _help(spec: ParameterSpec) -> str:
    return f"{spec.help[0].upper()}{spec.help[1:]}. [in a new VM: {_default(spec)}]"


def _default(spec: ParameterSpec) -> str:
    if isinstance(spec.default, bool):
        return "on" if spec.default else "off"
    if isinstance(spec.default, int) and spec.unit == "bytes/second":
        return format_rate(spec.default) if spec.default else "0"
    if isinstance(spec.default, int) and spec.unit == "bytes":
        return format_size(spec.default)
    return f"{spec.default} {spec.unit}".strip() or "none"


def given_parameters(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters that were given, checked. Raises UsageError."""
    given = {name.replace("_", "-"): value for name, value in parameters.items() if value is not None}
    for name, value in given.items():
        _require_in_range(PARAMETERS[name], value)
    return {name: PARAMETERS[name].check(value) for name, value in given.items()}


def _require_in_range(spec: ParameterSpec, value: object) -> None:
    """Tell of a number out of range by the name of its option; QEMU's text has another name, and not the value."""
    if isinstance(value, int) and spec.maximum and not spec.minimum <= value <= spec.maximum:
        unit = f" {spec.unit}" if spec.unit else ""
        raise UsageError(f"--{spec.name} is {value}{unit}; it may be {spec.minimum} to {spec.maximum}{unit}")
