"""What a document quotes is there: commands with their options, scenarios, lines of Python."""

import ast
import importlib.util
import pkgutil
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tests.repo.test_documents import DOCUMENTS, relative
from vmferry.cli.main import vmferry
from vmferry.experiment.scenario import parse_scenario

BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
WHOLE = re.compile(r"(?:^|\bdo )\s*(?:\$ )?(?:sudo )?(vmferry [^;&#\n]+)", re.MULTILINE)
MODULE = re.compile(r"python3? -m ((?:bench|vmferry|tests)[\w.]*)([^;&#`\n]*)")


def whole_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command in a block of code: they can be entered as they stand."""
    for block in BLOCK.findall(text):
        for line in WHOLE.findall(block.replace("\\\n", " ")):
            yield shlex.split(line.partition(" > ")[0])[1:]


def mentioned_commands(text: str) -> Iterator[list[str]]:
    """Yield the words of each command that a sentence mentions; values of options may be missing."""
    for span in SPAN.findall(BLOCK.sub("", text)):
        if span.startswith("vmferry "):
            yield shlex.split(span)[1:]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = vmferry
    context = click.Context(command)
    while isinstance(command, click.Group) and words and not words[0].startswith("-") and words[0].islower():
        found = command.get_command(context, words[0])
        assert found, f"there is no 'vmferry {words[0]}'"
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_commands_that_can_be_entered_are_understood(document: Path) -> None:
    for words in whole_commands(document.read_text()):
        command, rest = command_of(words)
        context = click.Context(command, **command.context_settings)
        values, _, _ = command.make_parser(context).parse_args(rest)
        for parameter in command.params:
            if isinstance(parameter.type, click.Choice) and values.get(parameter.name or "") is not None:
                parameter.type_cast_value(context, values[parameter.name or ""])


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_options_that_are_mentioned_with_a_command_are_its_own(document: Path) -> None:
    for words in mentioned_commands(document.read_text()):
        command, rest = command_of(words)
        known = {name for parameter in command.params for name in parameter.opts} | {"--help", "-h"}
        takes_any = command.context_settings.get("ignore_unknown_options", False)
        options = {word.partition("=")[0] for word in rest if word.startswith("-")}
        assert takes_any or options <= known, f"vmferry {shlex.join(words)}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_modules_that_are_run_are_there_and_know_the_options(document: Path) -> None:
    for name, rest in MODULE.findall(document.read_text().replace("\\\n", " ")):
        spec = importlib.util.find_spec(name)
        assert spec, name
        source = "".join(path.read_text() for path in sources_of(Path(spec.origin or "")))
        for option in re.findall(r"--[\w-]+", rest):
            assert option == "--help" or f'"{option}"' in source, f"{name} {option}"


def sources_of(origin: Path) -> list[Path]:
    """Return what may define the options of a module or of a package that is run."""
    return sorted(origin.parent.glob("*.py")) if origin.name == "__init__.py" else [origin]


def blocks_of(kind: str) -> Iterator[str]:
    for document in DOCUMENTS:
        yield from re.findall(rf"^```{kind}\n(.*?)^```", document.read_text(), re.MULTILINE | re.DOTALL)


def test_scenarios_can_be_simulated() -> None:
    scenarios = [block for block in blocks_of("toml") if "[guest]" in block]
    assert scenarios
    for block in scenarios:
        parse_scenario(block.encode(), "a document")


def test_what_python_imports_is_there() -> None:
    trees = [ast.parse(block) for block in blocks_of("python")]
    imports = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imports
    for node in imports:
        assert all(pkgutil.resolve_name(f"{node.module}:{alias.name}") for alias in node.names)


def test_commands_are_found_in_blocks_and_sentences() -> None:
    block = "```\n$ vmferry vm --memory 1G \\\n    --cpus 2 &   # run\nvmferry demo\nvmferry demo\n```\n"
    text = f"`vmferry watch --qmp` and\n{block}"
    assert list(whole_commands(text)) == [["vm", "--memory", "1G", "--cpus", "2"], ["demo"], ["demo"]]
    assert list(mentioned_commands(text)) == [["watch", "--qmp"]]
