"""`vmferry monitor`: talk to the human monitor of a VM, ours or QEMU's."""

import re
import sys
import time
from collections.abc import Iterable

import click

from vmferry.cli.line_editor import LineEditor, history_path
from vmferry.client.human_monitor import HumanMonitor, is_refusal
from vmferry.client.qmp_client import QmpClient

_PROMPT = "(vmferry) "
_UNPRINTABLE = re.compile(r"[^\n\t\x20-\x7e\xa0-\U0010ffff]")
"""What answers may be anybody's, and must not control the terminal."""


@click.command(
    "monitor", short_help="Talk to the human monitor of a VM.", context_settings={"allow_interspersed_args": False}
)
@click.argument("address")
@click.argument("words", nargs=-1, metavar="[LINE]")
@click.pass_context
def command(context: click.Context, /, address: str, words: tuple[str, ...]) -> None:
    """Carry out lines in the human monitor (HMP) behind the QMP socket at ADDRESS: unix:PATH, tcp:HOST:PORT or PATH.

    With a LINE, such as 'info migrate', carry out that one. At a terminal, prompt for lines; Tab completes and
    the arrow keys recall. Otherwise read lines from standard input.

    A socket of QEMU serves one client at a time.
    """
    with QmpClient.connect(address) as client:
        monitor = HumanMonitor(client)
        if words:
            context.exit(_run(monitor, [" ".join(words)]))
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            context.exit(_run(monitor, (line.decode(errors="replace") for line in sys.stdin.buffer)))
        _converse(client, monitor)


def _run(monitor: HumanMonitor, lines: Iterable[str]) -> int:
    """Carry lines out, print the answers, and return the exit code."""
    answers = [_carry_out(monitor, line) for line in lines]
    return int(any(is_refusal(answer) for answer in answers))


def _converse(client: QmpClient, monitor: HumanMonitor) -> None:
    name = monitor.execute("info name").strip() or "a VM without a name"
    _show(f"Talking to {name}; 'help' explains, Ctrl-D leaves.\n")
    editor = LineEditor(monitor.completions, history_path())
    if not editor.kept:
        click.echo(f"The history cannot be kept in {history_path()}.", err=True)
    while True:
        try:
            _show_events(client)
            line = editor.read(_PROMPT)
            _carry_out(monitor, line)
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            continue
        if line.strip() in ("quit", "q"):
            return


def _carry_out(monitor: HumanMonitor, line: str) -> str:
    """Have a line carried out, show the answer and return it."""
    answer = monitor.execute(line.strip().encode(errors="replace").decode())
    _show(answer)
    return answer


def _show_events(client: QmpClient) -> None:
    """Show what has happened since the last time; asking anything brings the events along."""
    client.execute("query-name")
    for event in client.take_events():
        data = " ".join(f"{name}={value}" for name, value in event.data.items())
        clock = time.strftime("%H:%M:%S", time.localtime(event.time_s))
        _show(f"[{clock}] {event.name} {data}".rstrip() + "\n")


def _show(text: str) -> None:
    click.echo(_UNPRINTABLE.sub("?", text), nl=False)
