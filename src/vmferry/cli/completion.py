"""`vmferry completion`: what has a shell complete vmferry's commands and options."""

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_VMFERRY_COMPLETE"
"""The shell's function sets it when it asks what there is; click answers then, in place of the command."""


@click.command("completion", short_help="Print what has a shell complete commands and options.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(context: click.Context, /, shell: str) -> None:
    """Print a script that has bash, zsh or fish complete vmferry's commands and options.

    \b
    In this shell only:   eval "$(vmferry completion bash)"
    In every shell:       vmferry man --prefix ~/.local

    The latter installs it beside the manual pages; `vmferry man --help` says where. Bash has to be 4.4 or newer.
    """
    click.echo(script(context.find_root().command, shell), nl=False)


def script(vmferry: click.Command, shell: str) -> str:
    """Return the script for a shell, as click makes it."""
    complete = get_completion_class(shell)
    assert complete
    return complete(vmferry, {}, "vmferry", _VARIABLE).source()
