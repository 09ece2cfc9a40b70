"""`vmferry agent`: look after all migrations of this host."""

from pathlib import Path

import click

from vmferry.agent.config import DEFAULT_PATH, Config, read_config
from vmferry.agent.explain import Explained, explain
from vmferry.bounds import one_line
from vmferry.cli.tables import compact_table, terminal, warn


@click.command("agent", short_help="Look after all migrations of this host.")
@click.option("--config", "path", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT_PATH,
              show_default=True, help="The file with places and rules (docs/agent.md).")  # fmt: skip
@click.option("--check", is_flag=True, help="Only check the file, and say which rule holds for which VM.")
def command(path: Path, check: bool) -> None:
    """Notice every migration that begins on this host, whoever began it, and do what the rule for its VM says.

    Without a rule that matches, a migration is shadowed: nothing is touched, and it is remembered what would have been
    decided.
    """
    config = read_config(path)
    if check:
        _explain(config, path)


def _explain(config: Config, path: Path) -> None:
    count = len(config.rule)
    click.echo(f"{path}: {count} rule{'' if count == 1 else 's'}")
    table = compact_table("", "VM", "what holds", "what is done")
    for column in table.columns[1:]:
        column.justify = "left"
    for line in explain(config):
        if isinstance(line, Explained):
            table.add_row(one_line(line.vm.name), str(line.holding), ", ".join(line.holding.rule.orders()))
        else:
            warn(line)
    if table.row_count:
        terminal().print(table)
