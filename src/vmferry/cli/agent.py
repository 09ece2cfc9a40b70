"""`vmferry agent`: look after all migrations of this host."""

from collections.abc import Callable
from pathlib import Path

import click

from vmferry.agent.config import DEFAULT_PATH, read_config
from vmferry.agent.log import Journald, Log, Sink, as_json, as_text
from vmferry.bounds import one_line
from vmferry.cli.agent_extra import needing_agent_extra
from vmferry.cli.log_option import STDERR
from vmferry.cli.tables import compact_table, terminal, warn
from vmferry.output import unblocked_stderr

_SINKS: dict[str, Callable[[], Sink]] = {"text": lambda: as_text, "json": lambda: as_json, "journald": Journald}


@click.command("agent", short_help="Look after all migrations of this host.")
@click.option("--config", "path", type=click.Path(dir_okay=False, path_type=Path), default=DEFAULT_PATH,
              show_default=True, help="The file with places and rules (docs/agent.md).")  # fmt: skip
@click.option(
    "--check", is_flag=True, help="Only check the file and those that it names, and say which rule holds for which VM."
)
@click.option("--log-format", type=click.Choice(list(_SINKS)), default="text", show_default=True,
              help="How to say what happens: lines, JSON lines, or entries of systemd's journal.")  # fmt: skip
def command(path: Path, check: bool, log_format: str) -> None:
    """Notice every migration that begins on this host, whoever began it, and do what the rule for its VM says.

    Without a rule that matches, a migration is shadowed: nothing is touched, and it is remembered what would have been
    decided. SIGHUP has the file read again, SIGTERM ends the agent, which undoes what it has done to VMs.
    """
    STDERR.choose(log_format, "agent")
    with needing_agent_extra():
        from vmferry.agent.explain import Explained, explain
        from vmferry.agent.service import Agent
        from vmferry.agent.web.access import check_files
    if not check:
        with unblocked_stderr(warn):
            Agent(path, Log(_SINKS[log_format]())).run()
        return
    config = read_config(path)
    check_files(config)
    click.echo(f"{path}: {config.counted_rules}")
    table = compact_table("", "VM", "what holds", "what is done")
    for column in table.columns[1:]:
        column.justify = "left"
        column.no_wrap = False
    for line in explain(config):
        if isinstance(line, Explained):
            table.add_row(one_line(line.vm.name), str(line.holding), ", ".join(line.holding.rule.orders()))
        else:
            warn(line)
    if table.row_count:
        terminal().print(table)
