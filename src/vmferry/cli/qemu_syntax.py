"""The syntax of QEMU's option values (`util/qemu-option.c`): `word,key=value,key=value`, commas doubled."""

import re
from collections.abc import Mapping

from vmferry.errors import UsageError
from vmferry.units import parse_size

_WORD = re.compile(r"(?:[^,]|,,)*")
_SIZE = re.compile(r"\d+(?:\.\d+)?(?P<suffix>[KMGT]?)", re.IGNORECASE | re.ASCII)
_BOOLEANS = {"on": True, "yes": True, "true": True, "y": True, "off": False, "no": False, "false": False, "n": False}


def parse_keys(text: str, implied_key: str = "") -> dict[str, str]:
    """Return the keys and values of an option's value; of a key given twice, the last counts.

    `implied_key` is the key of a first word without `=`. Any other such word is a switch: `wait` is `wait=on` and
    `nowait` is `wait=off`.
    """
    keys: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _WORD.match(text, at)
        assert match
        key, value = _split(match[0], implied_key if at == 0 else "")
        keys[key] = value
        at = match.end() + 1
    return keys


def _split(word: str, implied_key: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if equals and "," not in key:
        return key, value.replace(",,", ",")
    if implied_key:
        return implied_key, word.replace(",,", ",")
    if word.startswith("no"):
        return word.removeprefix("no"), "off"
    return word, "on"


def parse_switch(what: str, value: str) -> bool:
    """Return whether a switch is on. Raises UsageError that names `what`."""
    if value not in _BOOLEANS:
        raise UsageError(f"{what} is on or off, not '{value}'")
    return _BOOLEANS[value]


def parse_mebibytes(what: str, value: str) -> int:
    """Return a size in bytes; a number without a suffix is MiB. Raises UsageError that names `what`."""
    match = _SIZE.fullmatch(value)
    if not match:
        raise UsageError(f"{what} is a size such as 1G, 512M or 512 (MiB), not '{value}'")
    return parse_size(value if match["suffix"] else value + "M")


def parse_count(what: str, value: str, minimum: int, maximum: int) -> int:
    """Return a number. Raises UsageError that names `what` and the range."""
    if not re.fullmatch("[0-9]{1,9}", value) or not minimum <= int(value) <= maximum:
        raise UsageError(f"{what} is a number from {minimum} to {maximum}, not '{value}'")
    return int(value)


def check_keys(what: str, keys: Mapping[str, str], allowed: Mapping[str, tuple[str, ...]]) -> None:
    """Raise UsageError unless each key is in `allowed`, with one of the values there (an empty tuple: any value).

    The error names `what`, the key, and what is allowed.
    """
    for key, value in keys.items():
        if key not in allowed:
            raise UsageError(f"{what} does not know '{key}' here; it knows {', '.join(allowed) or 'nothing'}")
        if allowed[key] and value not in allowed[key]:
            raise UsageError(f"{what} can only have {key}={' or '.join(allowed[key])} here, not '{value}'")
