"""Whether a line of JSON is what docs/json.md says."""

import json
from collections.abc import Iterable

import msgspec


def is_of(line: str | bytes, kind: type) -> bool:
    """Return whether it has all keys of a type, each with a value of its type, and no others."""
    try:
        told: object = msgspec.json.decode(line, type=kind)
    except msgspec.ValidationError:
        return False
    return bool(msgspec.to_builtins(told) == json.loads(line))


def require_documented(lines: Iterable[str | bytes], kinds: tuple[type, ...]) -> None:
    for line in lines:
        assert any(is_of(line, kind) for kind in kinds), line
