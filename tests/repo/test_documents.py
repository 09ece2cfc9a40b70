"""The documents name what exists."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest

from tests.repo.test_layers import FLOORS
from vmferry.convergence.policies.registry import ENTRY_POINTS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_lines_are_no_longer_than_120_columns(document: Path) -> None:
    lines = enumerate(document.read_text().splitlines(), start=1)
    too_long = [number for number, line in lines if len(line) > 120 and not cannot_be_broken(line)]
    assert not too_long


def cannot_be_broken(line: str) -> bool:
    """Return whether a line is a row of a table, a heading, or a single word, such as a link."""
    return line.startswith(("|", "#")) or " " not in line.strip().removeprefix("- ")


def functions_in(path: Path) -> set[str]:
    nodes = ast.walk(ast.parse(path.read_text()))
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_tests_that_are_named_exist(document: Path) -> None:
    for path, function in re.findall(r"`(tests/[\w/.]+)(?:::(\w+))?", document.read_text()):
        assert (ROOT / path).exists(), path
        if function:
            assert function in functions_in(ROOT / path), f"{path}::{function}"


@pytest.mark.parametrize("document", CURRENT, ids=relative)
def test_modules_that_are_named_exist(document: Path) -> None:
    for path in re.findall(r"`((?:[\w-]+/)+(?:[\w-]+\.py)?)`", document.read_text()):
        assert (ROOT / path).exists() or (ROOT / "src/vmferry" / path).exists(), path
    for name in set(re.findall(r"\bvmferry(?:\.\w+)+", document.read_text())) - {ENTRY_POINTS}:
        assert pkgutil.resolve_name(name), name


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    pages = {path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")}
    listed = set(re.findall(r"\]\(([^)]+)\)", index))
    assert {page for page in pages if not page.startswith("decisions/")} - {"README.md"} <= listed
    assert "decisions" in listed


def test_each_promise_has_a_number_of_its_own_and_they_are_in_order() -> None:
    numbers = re.findall(r"^\| ([A-Z])(\d+) \|", (ROOT / "SPECIFICATION.md").read_text(), re.MULTILINE)
    assert len(numbers) > 80
    for kind in dict(numbers):
        of_kind = [int(number) for letter, number in numbers if letter == kind]
        assert of_kind == sorted(set(of_kind)), kind


@pytest.mark.parametrize("room", ["client", "control"])
def test_every_module_that_drives_from_outside_is_in_the_architecture(room: str) -> None:
    table = ARCHITECTURE.partition(f"| of `{room}/` | modules |")[2].partition("\n\n")[0]
    modules = {path.stem for path in ROOT.glob(f"src/vmferry/{room}/**/[a-z]*.py")}
    assert set(re.findall(r"`(\w+)`", table)) == modules


def test_modules_in_the_architectures_trees_exist() -> None:
    modules = {path.as_posix() for path in ROOT.glob("src/vmferry/**/*.py")}
    named = re.findall(r"[\w/]+\.py\b", "".join(re.findall(r"```\n(.*?)```", ARCHITECTURE, re.DOTALL)))
    assert len(named) > 30
    assert [name for name in named if not any(path.endswith(f"/{name}") for path in modules)] == []


def test_the_floors_in_the_architecture_are_those_that_are_checked() -> None:
    rows = re.findall(r"^\| (\d+) \| ([^|]*) \|", ARCHITECTURE, re.MULTILINE)
    shown = {int(number): set(re.findall(r"`(\w+)`", packages)) for number, packages in rows}
    assert shown == {number: packages - {"__main__"} for number, packages in enumerate(FLOORS, start=1)}


def test_pinned_requirements_name_no_registry() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "://" not in lock
    assert all("==" in line for line in lock.splitlines() if line and not line.lstrip().startswith("#"))
