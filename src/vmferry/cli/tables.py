"""How figures look in a terminal."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vmferry.cli.log_option import LOG, STDERR


def terminal(*, stderr: bool = False, quiet: bool = False) -> Console:
    """Return what prints; texts come out as they are, for they may come from anyone and have brackets in them."""
    return Console(stderr=stderr, quiet=quiet, highlight=False, markup=False, emoji=False)


def beside(*, quiet: bool) -> Console:
    """Return what shows on stderr how far a command is; it shows nothing where the log is JSON."""
    return terminal(stderr=True, quiet=quiet or STDERR.is_json)


def say(console: Console, text: str) -> None:
    """Say on stderr what happens: in the log where that is JSON, else on the console."""
    if STDERR.is_json:
        LOG.info(text)
    else:
        console.print(text, soft_wrap=True)


def warn(text: str) -> None:
    """Say on stderr what a reader of the result should know; above a live view, where there is one."""
    LOG.warn(text)


def bold(text: str) -> Text:
    """Return a text that stands out."""
    return Text(text, style="bold")


def compact_table(title: str | Text, first: str, *others: str) -> Table:
    """Return an empty table that fits 80 columns: names on the left, figures on the right."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, padding=(0, 1), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table
