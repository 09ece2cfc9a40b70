"""How tables of figures look in a terminal."""

from rich.table import Table


def compact_table(title: str, first: str, *others: str) -> Table:
    """Return an empty table that fits 80 columns: names on the left, figures on the right."""
    table = Table(title=title, title_justify="left", caption_justify="left", box=None, padding=(0, 1), pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table
