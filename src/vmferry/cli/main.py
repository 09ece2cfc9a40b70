"""The `vmferry` command: each subcommand lives in a module of its own and is imported when called."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, TextIO

import click
from click.exceptions import NoArgsIsHelpError

from vmferry import __version__
from vmferry.cli.exit_codes import ExitCode, code_of, help_text
from vmferry.cli.interrupts import raise_interruptions, signal_number_of
from vmferry.cli.log_option import LOG, STDERR, log_format_option
from vmferry.errors import HostError, InterruptionError, UsageError, VmferryError
from vmferry.output import unblocked_stderr

_COMMANDS = {
    "agent": "vmferry.cli.agent",
    "certs": "vmferry.cli.certs",
    "completion": "vmferry.cli.completion",
    "demo": "vmferry.cli.demo",
    "forecast": "vmferry.cli.forecast",
    "history": "vmferry.cli.history",
    "man": "vmferry.cli.man",
    "migrate": "vmferry.cli.migrate",
    "monitor": "vmferry.cli.monitor",
    "perf": "vmferry.cli.perf",
    "policy": "vmferry.cli.policy",
    "qemu": "vmferry.cli.qemu",
    "replay": "vmferry.cli.replay",
    "report": "vmferry.cli.report",
    "simulate": "vmferry.cli.simulate",
    "sweep": "vmferry.cli.sweep",
    "vm": "vmferry.cli.vm",
    "watch": "vmferry.cli.watch",
}

_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _LazyGroup(click.Group):
    """Imports a subcommand's module only when it is needed, which keeps `--help` quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(_COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        _add_common(command, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        STDERR.choose("text", "")
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # before click makes exit code 1 of it
            raise InterruptionError("interrupted", signal_number_of(error)) from error


def _add_common(command: click.Command, name: str) -> None:
    """Give a command, and those below it, what all have: exit codes in the help, and a way to choose the log's form.

    The words of `qemu` are QEMU's.
    """
    if isinstance(command, click.Group):
        for below, subcommand in command.commands.items():
            _add_common(subcommand, f"{name} {below}")
    else:
        command.epilog = help_text(name)
        if name != "qemu" and not any("--log-format" in parameter.opts for parameter in command.params):
            command.params.append(log_format_option())


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vmferry")
def vmferry() -> None:
    """Live-migrate virtual machines, also huge and busy ones.

    \b
    Try it:            vmferry demo
    Run a VM:          vmferry vm --memory 1G --cpus 2 --qmp unix:/tmp/a.qmp
    Await one:         vmferry vm --memory 1G --cpus 2 --incoming tcp:0.0.0.0:4444
    Will it converge?  vmferry forecast --qmp unix:/tmp/a.qmp --bandwidth 1Gbit/s
    Migrate it there:  vmferry migrate --qmp unix:/tmp/a.qmp tcp:otherhost:4444
    Only look on:      vmferry watch --qmp unix:/tmp/a.qmp --wait
    Talk to it:        vmferry monitor unix:/tmp/a.qmp
    """


def main() -> None:
    """Run the command line; errors are one line on stderr, and the exit code says of which kind (`ExitCode`)."""
    raise_interruptions()
    try:
        _require_text(sys.argv[1:])
        with _telling_of_a_full_output(), _in_one_line():
            sys.exit(vmferry.main(prog_name="vmferry", standalone_mode=False) or ExitCode.DONE)
    except VmferryError as error:
        with unblocked_stderr(lambda text: None):  # nobody may be reading it
            LOG.error(str(error), exit_code=code_of(error))
        sys.exit(code_of(error))


@contextmanager
def _telling_of_a_full_output() -> Iterator[None]:
    """Raise HostError where standard output cannot be written, and write no more of it. A reader may go away."""
    output: TextIO | None = sys.stdout
    try:
        try:
            yield
        finally:
            if output:
                output.flush()
    except OSError as error:
        if error.errno not in (*_CANNOT_WRITE, errno.EPIPE) or error.filename is not None or not output:
            raise
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), output.fileno())
        if error.errno == errno.EPIPE and isinstance(error.__context__, SystemExit):
            raise error.__context__ from None
        raise HostError(f"cannot write the output: {error.strerror}") from error


@contextmanager
def _in_one_line() -> Iterator[None]:
    """Raise UsageError for what click refuses, and say where it is told what may be given."""
    try:
        yield
    except NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.UsageError as error:
        said = " ".join(error.format_message().split()).removesuffix(".")
        command = error.ctx.command_path if error.ctx else "vmferry"
        raise UsageError(f"{said}; see {command} --help") from error


def _require_text(words: list[str]) -> None:
    for word in words:
        if any("\udc80" <= character <= "\udcff" for character in word):  # how Python shows other bytes
            raise UsageError(f"{word!a} is not UTF-8; write it in UTF-8")
