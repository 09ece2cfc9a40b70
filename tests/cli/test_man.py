"""Manual pages and completion, made of the commands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from vmferry.cli.command_tree import contexts
from vmferry.cli.completion import SHELLS
from vmferry.cli.exit_codes import ExitCode, meanings
from vmferry.cli.main import vmferry
from vmferry.cli.man_page import page, page_name
from vmferry.errors import UsageError

REQUESTS = {".TH", ".nh", ".ad", ".SH", ".PP", ".TP", ".B", ".BR", ".nf", ".fi"}
NASTY = r"""Say 'it's', "so", `that`, ~this^, a\b \(co \fB, and 20 % of C:\new; --no-thing - or § é.

.TH is no request here, and neither is
'this, at the beginning of a line.

\b
  .SH nor here   in \ columns
  'nor here
"""


def install(*words: object) -> Result:
    return CliRunner().invoke(vmferry, ["man", *map(str, words)])


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    directory = tmp_path_factory.mktemp("man") / "man1"
    answer = install("--output", directory)
    assert answer.exit_code == 0, answer.output
    return sorted(directory.iterdir())


def test_every_command_has_a_page(pages: list[Path]) -> None:
    assert [path.name for path in pages] == sorted(f"{page_name(each.command_path)}.1" for each in contexts(vmferry))
    assert "vmferry-perf-run.1" in [path.name for path in pages]


def test_pages_are_plain_ascii_and_use_few_requests(pages: list[Path]) -> None:
    for path in pages:
        for line in path.read_text(encoding="ascii").splitlines():
            assert not line.startswith((".", "'")) or line.split()[0] in REQUESTS, line


def test_a_page_has_all_options_and_exit_codes(pages: list[Path]) -> None:
    for context in contexts(vmferry):
        text = plain(next(path for path in pages if path.stem == page_name(context.command_path)).read_text())
        for parameter in context.command.get_params(context):
            if isinstance(parameter, click.Option) and not parameter.hidden:
                assert all(name in text for name in parameter.opts)
        if not isinstance(context.command, click.Group):
            for code, meaning in meanings(context.command_path.partition(" ")[2]).items():
                assert f"{code}\n{meaning}" in text


def plain(page: str) -> str:
    """Return what roff makes of a page, about."""
    lines = re.sub(r"\\f[BIR]|\\&", "", page).replace(r"\-", "-").splitlines()
    return "\n".join(line.removeprefix(".B ") for line in lines if line not in (".TP", ".PP"))


@pytest.mark.man
def test_groff_has_no_complaint(pages: list[Path]) -> None:
    words = ["groff", "-man", "-ww", "-z", "-Tutf8", *map(str, pages)]
    answer = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    assert answer.stderr == ""


@pytest.mark.man
def test_what_a_page_is_about_is_found(pages: list[Path]) -> None:
    answer = subprocess.run(["lexgrog", *map(str, pages)], capture_output=True, text=True, timeout=60, check=True)
    assert answer.stdout.count("vmferry") >= 2 * len(pages)
    assert "parse failed" not in answer.stdout


@pytest.mark.man
def test_text_looks_as_it_is_whatever_it_has_in_it() -> None:
    command = click.Command("nasty", help=NASTY.replace("\\b\n", "\b\n"), short_help="Nasty")
    words = ["groff", "-man", "-ww", "-Tutf8", "-P-c"]
    answer = subprocess.run(
        words, input=page(click.Context(command, info_name="vmferry nasty")), capture_output=True, text=True, check=True
    )
    shown = " ".join(re.sub(".\b", "", answer.stdout).replace("\N{MINUS SIGN}", "-").replace("\N{HYPHEN}", "-").split())
    assert answer.stderr == ""
    assert " ".join(NASTY.replace("\\b\n", "").split()) in shown


def test_installing_puts_pages_and_completion_where_they_are_looked_for(tmp_path: Path) -> None:
    for _ in range(2):  # the second replaces
        assert install("--prefix", tmp_path / "local").exit_code == 0
    share = tmp_path / "local" / "share"
    assert (share / "man/man1/vmferry-migrate.1").read_text().startswith(".TH VMFERRY-MIGRATE 1")
    assert "complete -o nosort -F" in (share / "bash-completion/completions/vmferry").read_text()
    assert (share / "zsh/site-functions/_vmferry").read_text().startswith("#compdef vmferry")
    assert "complete --no-files --command vmferry" in (share / "fish/vendor_completions.d/vmferry.fish").read_text()
    assert not list(share.rglob("*.part"))


@pytest.mark.parametrize("words", [(), ("--output", "/dev/null/x"), ("--prefix", "/proc/none")])
def test_what_cannot_be_installed_is_refused(words: tuple[str, ...]) -> None:
    assert isinstance(install(*words).exception, UsageError)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_is_printed(shell: str) -> None:
    answer = CliRunner().invoke(vmferry, ["completion", shell])
    assert answer.exit_code == 0
    assert "_VMFERRY_COMPLETE" in answer.stdout


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("vmferry mig", ["migrate"]),
        ("vmferry migrate --fin", ["--finish-by"]),
        ("vmferry migrate --on-limit c", ["cancel", "continue"]),
        ("vmferry perf comp", ["compare"]),
        ("vmferry watch --log-format j", ["json"]),
    ],
)
def test_bash_completes(line: str, offered: list[str], tmp_path: Path) -> None:
    (tmp_path / "vmferry").write_text(f'#!/bin/sh\nexec {sys.executable} -m vmferry "$@"\n')
    (tmp_path / "vmferry").chmod(0o755)
    words = line.split()
    script = (
        f'eval "$(vmferry completion bash)"; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}; '
        '_vmferry_completion vmferry; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    answer = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, env=environment, check=True
    )
    assert answer.stdout.split() == offered


def test_help_fits_80_columns() -> None:
    for context in contexts(vmferry):
        context.terminal_width = 80
        for line in context.command.get_help(context).splitlines():
            assert len(line) <= 80, f"{context.command_path}: {line}"


def test_parameters_stand_below_the_other_options() -> None:
    help = CliRunner().invoke(vmferry, ["migrate", "--help"]).stdout
    options, parameters = help.split("Migration parameters:")
    assert "--finish-by" in options
    assert "--downtime-limit" in parameters
    assert "--finish-by" not in parameters


def test_help_and_the_page_tell_every_exit_code() -> None:
    told = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text()
    for code in ExitCode:
        assert re.search(rf"^\| (?:\d, )?{code:d}\b", told, re.MULTILINE), code
    for context in contexts(vmferry):
        name = context.command_path.partition(" ")[2]
        if not isinstance(context.command, click.Group):
            help = " ".join(context.command.get_help(context).split())
            assert all(f"{code} {meaning}" in help for code, meaning in meanings(name).items()), name
            assert "docs/exit-codes.md" in help
