"""Checks a value against a built-in QAPI type, and says what is wrong in QEMU's words.

The types are those of `docs/devel/qapi-code-gen`; the texts are those of
`qapi/qobject-input-visitor.c` and `qapi/qapi-visit-core.c`. Unlike QEMU, which takes a negative number for
an unsigned 64-bit one and wraps it round, this refuses it.
"""

from typing import TypeGuard

from vmferry.errors import UsageError

INT64_RANGE = range(-(2**63), 2**63)
UINT64_MAX = 2**64 - 1
UNSIGNED_MAX = {"uint8": 2**8 - 1, "uint32": 2**32 - 1, "uint64": UINT64_MAX, "size": UINT64_MAX}
"""The largest value of every unsigned type."""

_NARROW_C_TYPES = {"uint8": "uint8_t", "uint32": "uint32_t"}
_PYTHON_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "str": (str, "string"),
    "bool": (bool, "boolean"),
    "number": ((int, float), "number"),
    "null": (type(None), "null"),
    "StrOrNull": ((str, type(None)), "StrOrNull"),
    "list": (list, "array"),
}


def check_builtin(name: str, qapi_type: str, value: object) -> None:
    """Raise UsageError unless `value` is of the type; `name` is what the text calls it."""
    if qapi_type in UNSIGNED_MAX:
        _check_unsigned(name, qapi_type, value)
    elif qapi_type == "int":
        if not _is_integer(value) or value not in INT64_RANGE:
            raise wrong_type(name, "integer")
    else:
        python_type, word = _PYTHON_TYPES[qapi_type]
        if not isinstance(value, python_type) or (isinstance(value, bool) and qapi_type != "bool"):
            raise wrong_type(name, word)


def wrong_type(name: str, expected: str) -> UsageError:
    """Return the error for a value of another type than `expected`."""
    return UsageError(f"Invalid parameter type for '{name}', expected: {expected}")


def check_word(name: str, words: frozenset[str] | tuple[str, ...], value: object) -> None:
    """Raise UsageError unless `value` is one of the words of an enum."""
    check_builtin(name, "str", value)
    if value not in words:
        raise UsageError(f"Parameter '{name}' does not accept value '{value}'")


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_unsigned(name: str, qapi_type: str, value: object) -> None:
    if not _is_integer(value) or not INT64_RANGE.start <= value <= UINT64_MAX:
        raise UsageError(f"Parameter '{name}' expects uint64")
    if not 0 <= value <= UNSIGNED_MAX[qapi_type]:
        raise UsageError(f"Parameter '{name}' expects {_NARROW_C_TYPES.get(qapi_type, 'uint64')}")
