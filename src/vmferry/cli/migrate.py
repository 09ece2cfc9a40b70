"""`vmferry migrate`: move a running VM to another host, and show how it goes."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict

import click
import msgspec
from rich.console import Console
from rich.live import Live

from vmferry.cli.parameter_options import given_parameters, parameter_options
from vmferry.cli.progress import progress_table, summary
from vmferry.control.drive import Progress, Result, drive, set_up, variant_settings
from vmferry.control.qmp_client import QmpClient
from vmferry.convergence.policy import VARIANTS, find_variant


@click.command("migrate", short_help="Move a running VM to another host.")
@click.argument("uri")
@click.option("--qmp", "address", required=True, help="Monitor of the source VM: unix:PATH or tcp:HOST:PORT.")
@click.option("--variant", type=click.Choice(list(VARIANTS)), help="Named set of convergence parameters.")
@click.option("--auto-converge/--no-auto-converge", default=True, show_default=True,
              help="Slow the guest down if it does not converge.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end instead of tables.")
@parameter_options()
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
    settings = (variant_settings(find_variant(variant)) if variant else {}) | given_parameters(parameters)
    with QmpClient.connect(address) as monitor:
        set_up(monitor, settings, auto_converge=auto_converge)
        result = _drive_visibly(monitor, uri, quiet=as_json)
    _report(result, as_json)
    context.exit(0 if result.completed else 1)


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
