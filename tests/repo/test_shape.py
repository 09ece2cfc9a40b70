"""The code keeps its shape: short functions, small modules, and a name means one thing."""

import re
from statistics import median, quantiles

import pytest

from tests.repo.shape import MODULES, SOURCE, classes, functions, main, modules

MAX_FUNCTION_LINES = 50
MAX_MODULE_LINES = 400
SAME_THING_TWICE = {"DirtyRateInfo", "MigrationInfo"}
"""What `query-dirty-rate` and `query-migrate` answer: as the engine has it, and as QAPI's struct of the same name."""

UNIT = re.compile(r"^_?(?:NS_PER_S|NS_PER_MS|MS_PER_S|(?:BYTES_PER_)?[MG]IB)\b.* = ", re.MULTILINE)
"""A constant that tells how many small units a large one holds."""

POSSESSIVE = re.compile(r"\)[*+?}]\+|\(\?>")
"""A repetition of a group that gives nothing back, which Python up to 3.11.4 matches wrongly (cpython issue 106052)."""


def test_functions_are_short() -> None:
    lengths = functions()
    assert [name for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES] == []
    assert median(lengths.values()) <= 5
    assert quantiles(lengths.values(), n=10)[8] <= 14


def test_modules_are_small() -> None:
    assert {name: lines for name, lines in modules().items() if lines > MAX_MODULE_LINES} == {}


def test_no_name_of_a_class_means_two_things() -> None:
    assert {name: places for name, places in classes().items() if len(places) > 1}.keys() == SAME_THING_TWICE


def test_how_many_small_units_a_large_one_holds_is_written_once() -> None:
    places = [str(path.relative_to(SOURCE)) for path in MODULES if UNIT.search(path.read_text())]
    assert places == ["units.py"]


def test_patterns_mean_the_same_to_all_pythons() -> None:
    assert not [str(path.relative_to(SOURCE)) for path in MODULES if POSSESSIVE.search(path.read_text())]


def test_the_figures_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    assert f"max {max(functions().values())}\n" in capsys.readouterr().out
