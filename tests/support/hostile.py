"""Documents that somebody tampered with."""

import copy
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from hypothesis import strategies as st

_VALUES: st.SearchStrategy[object] = st.one_of(
    st.sampled_from(
        ["[/bold]", "[bold", "\x1b[2J", ":cat:", "../x", "a\nb", "<b>", "", None, True, [], {}, [[0.5, []]]]
    ),
    st.integers(-(10**400), 10**400),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(),
)


def tampered(document: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return the strategy of JSON documents that differ from this one in a few places."""
    changes = st.tuples(st.sampled_from([place for place in _places(document) if place]), _VALUES)
    return st.lists(changes, min_size=1, max_size=3).map(lambda made: _with(document, made))


def _places(value: object, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to every value in a document."""
    yield way
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _places(child, (*way, key))


def _with(document: dict[str, Any], changes: list[tuple[tuple[str | int, ...], object]]) -> dict[str, Any]:
    changed = copy.deepcopy(document)
    for (*way, last), value in changes:
        with suppress(KeyError, IndexError, TypeError):  # an earlier change took away where it was to be
            place: Any = changed
            for step in way:
                place = place[step]
            place[last] = copy.deepcopy(value)
    return changed
