"""Finds the line of a TOML document at which something stands, of which a parser's error only tells the path."""

import re
import tomllib
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

_STEP = re.compile(r"(?P<key>[^.\[\]]+)|\[(?P<index>\d+)\]")


def line_of(text: str, path: str) -> int:
    """Return the number of the line at which `path`, such as `rule[1].deadline`, begins in a valid document.

    What does not stand in it is looked for at the nearest table around it.
    """
    lines = text.splitlines(keepends=True)
    steps = [int(match["index"]) if match["index"] else match["key"] for match in _STEP.finditer(path)]
    while steps and not _leads_somewhere(steps, tomllib.loads(text)):
        steps.pop()
    counts = range(len(lines) + 1)
    before = bisect_left(counts, True, key=lambda count: _leads_somewhere(steps, _longest(lines, count)[1])) - 1
    return _longest(lines, max(0, before))[0] + 1


def _longest(lines: Sequence[str], count: int) -> tuple[int, dict[str, Any]]:
    """Return the longest document in the first lines, and its length. What goes on after them is left out."""
    while count:
        try:
            return count, tomllib.loads("".join(lines[:count]))
        except tomllib.TOMLDecodeError:
            count -= 1
    return 0, {}


def _leads_somewhere(steps: Sequence[str | int], found: Any) -> bool:
    for step in steps:
        try:
            found = found[step]
        except (LookupError, TypeError):
            return False
    return True
