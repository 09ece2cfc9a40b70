"""Finds the line of a TOML document at which something stands, of which a parser's error only tells the path."""

import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

_STEP = re.compile(r"(?P<key>[^.\[\]]+)|\[(?P<index>\d+)\]")
_TOKEN = re.compile(
    r"""
    (?P<comment>\#[^\n]*) | (?P<end>\n) | (?P<open>[\[{]) | (?P<close>[\]}])
    | (?P<string>"{3}(?:\\.|[^\\])*?"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\])*" | '[^']*')
    | (?P<word>[^\s\#"'\[\]{}]+)
    """,
    re.VERBOSE | re.DOTALL,
)


def line_of(text: str, path: str) -> int:
    """Return the number of the line at which `path`, such as `rule[1].deadline`, begins in a valid document.

    What does not stand in it is looked for at the nearest table around it.
    """
    steps = [int(match["index"]) if match["index"] else match["key"] for match in _STEP.finditer(path)]
    document = tomllib.loads(text)
    while steps and not _leads_somewhere(steps, document):
        steps.pop()
    starts = list(_statements(text))
    ends = [0, *starts[1:], len(text)]
    count = bisect_left(ends, True, key=lambda end: _leads_somewhere(steps, tomllib.loads(text[:end])))
    return 1 + text.count("\n", 0, starts[count - 1]) if count else 1


def _statements(text: str) -> Iterator[int]:
    """Yield where each statement of a valid document begins: what comes before one is a document, too."""
    depth, is_new = 0, True
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "comment":
                continue
            case "end":
                is_new = is_new or not depth
                continue
        if is_new:
            yield token.start()
        is_new = False
        depth += {"open": 1, "close": -1}.get(str(token.lastgroup), 0)


def _leads_somewhere(steps: Sequence[str | int], found: Any) -> bool:
    for step in steps:
        try:
            found = found[step]
        except (LookupError, TypeError):
            return False
    return True
