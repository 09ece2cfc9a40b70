"""`vmferry migrate`: move a running VM to another host, and show how it goes."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.live import Live

from vmferry.cli.progress import progress_table, summary
from vmferry.cli.types import DURATION_MS, RATE
from vmferry.control.drive import Progress, Result, drive, set_up, variant_settings
from vmferry.control.qmp_client import QmpClient
from vmferry.convergence.policy import VARIANTS, find_variant
from vmferry.migration.parameter_spec import ParameterSpec
from vmferry.migration.parameters import PARAMETERS
from vmferry.units import format_rate


def _parameter_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add one option for each row of the parameter table."""
    for spec in reversed(PARAMETERS.values()):
        flag = f"--{spec.name}/--no-{spec.name}" if spec.qapi_type == "bool" else f"--{spec.name}"
        command = click.option(flag, type=_option_type(spec), default=None, help=_help(spec))(command)
    return command


def _option_type(spec: ParameterSpec) -> click.ParamType[Any]:
    if spec.unit == "bytes/second":
        return RATE
    if spec.unit == "ms":
        return DURATION_MS
    match spec.qapi_type:
        case "bool":
            return click.BOOL
        case "enum":
            return click.Choice([str(choice) for choice in spec.choices])
        case "str":
            return click.STRING
        case _:
            return click.INT


def _help(spec: ParameterSpec) -> str:
    return f"{spec.help[0].upper()}{spec.help[1:]}. A new VM has: {_default(spec)}."


def _default(spec: ParameterSpec) -> str:
    if isinstance(spec.default, bool):
        return "on" if spec.default else "off"
    if isinstance(spec.default, int) and spec.unit == "bytes/second":
        return format_rate(spec.default) if spec.default else "0"
    return f"{spec.default} {spec.unit}".strip()


@click.command("migrate", short_help="Move a running VM to another host.")
@click.argument("uri")
@click.option("--qmp", "address", required=True, help="Monitor of the source VM: unix:PATH or tcp:HOST:PORT.")
@click.option("--variant", type=click.Choice(list(VARIANTS)), help="Named set of convergence parameters.")
@click.option("--auto-converge/--no-auto-converge", default=True, show_default=True,
              help="Slow the guest down if it does not converge.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of tables.")
@_parameter_options
@click.pass_context
def command(
    context: click.Context,
    /,
    uri: str,
    address: str,
    variant: str | None,
    auto_converge: bool,
    as_json: bool,
    **parameters: object,
) -> None:
    """Migrate the VM behind a monitor to URI, such as tcp:otherhost:4444 or unix:/run/in.sock.

    Parameters that are not given keep the values they have in the VM. Ctrl-C cancels; the VM then
    goes on running where it is.
    """
    settings = (variant_settings(find_variant(variant)) if variant else {}) | _given(parameters)
    with QmpClient.connect(address) as monitor:
        set_up(monitor, settings, auto_converge=auto_converge)
        result = _drive_visibly(monitor, uri, quiet=as_json)
    _report(result, as_json)
    context.exit(0 if result.completed else 1)


def _given(parameters: Mapping[str, object]) -> dict[str, object]:
    """Return the parameters that were given, checked. Raises UsageError."""
    given = {name.replace("_", "-"): value for name, value in parameters.items() if value is not None}
    return {name: PARAMETERS[name].check(value) for name, value in given.items()}


def _drive_visibly(monitor: QmpClient, uri: str, *, quiet: bool) -> Result:
    live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
    screen: AbstractContextManager[object] = nullcontext() if quiet else live

    def watch(progress: Progress) -> None:
        if not quiet:
            live.update(progress_table(progress), refresh=True)

    with screen:
        return drive(monitor, uri, watch)


def _report(result: Result, as_json: bool) -> None:
    if as_json:
        answer = asdict(result.last) | {"max_throttle_percent": result.max_throttle_percent}
        click.echo(msgspec.json.encode(answer))
    else:
        Console().print(summary(result))
