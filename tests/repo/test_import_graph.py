"""The graph of imports shows every package, and the imports that there are."""

import re
import subprocess
import sys
from pathlib import Path

from tests.repo.test_layers import FLOORS, MODULES, imported_names, package_of, place_of


def printed(*options: str) -> str:
    command = [sys.executable, "-m", "tests.repo.import_graph", *options]
    root = Path(__file__).parents[2]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=root, timeout=60).stdout


def seen() -> set[tuple[str, str]]:
    edges = set()
    for path in MODULES:
        own = place_of(path).split("/")[0].removesuffix(".py")
        edges |= {(own, package) for name in imported_names(path) if (package := package_of(name)) and package != own}
    return edges


def test_it_is_printed_as_text_from_the_top_floor_down() -> None:
    lines = [line.split() for line in printed().splitlines()]
    assert [words[0] for words in lines] == [package for floor in reversed(FLOORS) for package in sorted(floor)]
    assert {(words[0], word) for words in lines for word in words[2:] if word != "nothing"} == seen()


def test_it_is_printed_for_graphviz() -> None:
    text = printed("--dot")
    edges = re.findall(r"^  (\w+) -> \{ ([\w ]*) \}$", text, re.MULTILINE)
    assert {(own, word) for own, words in edges for word in words.split()} == seen()
    assert text.startswith("digraph")
    assert len(re.findall("rank=same", text)) == len(FLOORS)
