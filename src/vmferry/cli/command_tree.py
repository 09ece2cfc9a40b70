"""All commands with those below them, for what is made of them: manual pages, and what `--json` prints."""

from collections.abc import Iterator

import click


def contexts(
    command: click.Command, parent: click.Context | None = None, name: str = "vmferry"
) -> Iterator[click.Context]:
    """Yield a context for a command and for each one below it; its `command_path` is how it is called."""
    context = click.Context(command, parent, name, **command.context_settings)
    yield context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            subcommand = command.get_command(context, below)
            assert subcommand
            yield from contexts(subcommand, context, below)
