"""`vmferry man`: manual pages of all commands, and what completes them, made of the commands themselves."""

from pathlib import Path

import click

from vmferry.cli.command_tree import contexts
from vmferry.cli.completion import SHELLS, script
from vmferry.cli.files import write_whole
from vmferry.cli.man_page import page, page_name
from vmferry.errors import UsageError

_DIRECTORY = click.Path(file_okay=False, path_type=Path)
_COMPLETIONS = {
    "bash": "share/bash-completion/completions/vmferry",
    "zsh": "share/zsh/site-functions/_vmferry",
    "fish": "share/fish/vendor_completions.d/vmferry.fish",
}


@click.command("man", short_help="Install manual pages, and completion for shells.")
@click.option("--prefix", type=_DIRECTORY, help="Install below this directory, such as ~/.local or /usr/local.")
@click.option("--output", type=_DIRECTORY, help="Only write the pages, into this directory.")
@click.pass_context
def command(context: click.Context, /, prefix: Path | None, output: Path | None) -> None:
    """Write a manual page for each command, and what has bash, zsh and fish complete them.

    \b
    vmferry man --prefix ~/.local
    man vmferry-migrate

    Below PREFIX, the pages are in share/man/man1, and completion is where the shells look for it:
    share/bash-completion/completions, share/zsh/site-functions and share/fish/vendor_completions.d. Files that are
    there already are replaced.
    """
    vmferry = context.find_root().command
    if prefix:
        written = {**_pages(vmferry, prefix / "share/man/man1"), **_scripts(vmferry, prefix)}
    elif output:
        written = _pages(vmferry, output)
    else:
        raise UsageError("give --prefix DIR to install pages and completion, or --output DIR for the pages alone")
    for path, text in written.items():
        _write(path, text)
    click.echo(f"{len(written)} files are in {prefix or output}")


def _pages(vmferry: click.Command, directory: Path) -> dict[Path, str]:
    return {directory / f"{page_name(each.command_path)}.1": page(each) for each in contexts(vmferry)}


def _scripts(vmferry: click.Command, prefix: Path) -> dict[Path, str]:
    return {prefix / _COMPLETIONS[shell]: script(vmferry, shell) for shell in SHELLS}


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make the directory '{path.parent}': {error.strerror}") from error
    write_whole(path, text)
