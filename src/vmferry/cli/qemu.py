"""`vmferry qemu`: `vmferry vm` with QEMU's options, for scripts that were written for QEMU."""

import click

from vmferry.cli.qemu_options import parse_qemu_options
from vmferry.vm.process import run_vm


@click.command(
    "qemu",
    short_help="Run a virtual machine, told so in QEMU's words.",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(context: click.Context, /, words: tuple[str, ...]) -> None:
    """Run a virtual machine until its monitor says quit, or a signal ends it.

    `vmferry qemu -help` lists what is understood of QEMU's options; docs/qemu-cli.md tells more.
    """
    asked = parse_qemu_options(words)
    if isinstance(asked, str):
        click.echo(asked)
    else:
        context.exit(run_vm(asked))
