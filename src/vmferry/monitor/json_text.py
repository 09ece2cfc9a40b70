"""JSON texts as QEMU reads and writes them: what its parser complains of, and how its answers are spelled.

Shell scripts look for `"status": "running"` in answers and for the text of errors, so both are QEMU's
(`qobject/json-parser.c`, `json-writer.c`). Parsing itself is left to faster parsers; only a text that they refuse is
read again to say why.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from vmferry.errors import UsageError

_TOKEN = re.compile(
    rb"""[ \t\r\n]* (?:
        (?P<string> "[^"\\]*(?:\\.[^"\\]*)*" ) | (?P<keyword> [a-z]+ ) | (?P<symbol> [{}\[\]:,] ) | (?P<end> \Z )
        | (?P<number> -?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)? )
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(?:u(?P<unit>[0-9a-fA-F]{4})(?P<low>\\u[dD][c-fC-F][0-9a-fA-F]{2})?|(?P<other>.))", re.DOTALL)
MAX_EXPLAINED_BYTES = 1 << 16
"""Reading this much again takes 60 ms. What is wrong with longer texts is told in the faster parser's words."""
_PRETTY_INDENT = 4
_NOT_PRINTABLE = re.compile(r"[^\x00-\x7e]")
_HIGH_SURROGATES = range(0xD800, 0xDC00)
_LOW_SURROGATES = range(0xDC00, 0xE000)


def parse_json(text: bytes) -> object:
    """Return the value of a JSON text that is not nested deeply. Raises UsageError with QEMU's text."""
    try:
        value = msgspec.json.decode(text)
        json.loads(text, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
    except (msgspec.DecodeError, ValueError) as error:
        if len(text) <= MAX_EXPLAINED_BYTES:
            _Complaint(text).value()
        reason = str(error).removeprefix("JSON is malformed: ").partition(" - at `")[0]
        raise _refusal(reason) from error
    return value


def format_json(message: object, *, pretty: bool = False) -> bytes:
    """Return a JSON text of printable ASCII, in one line spaced as QEMU's, or pretty with a line for each member."""
    text = msgspec.json.format(msgspec.json.encode(message), indent=_PRETTY_INDENT if pretty else 0)
    plain = text.isascii() and b"\x7f" not in text
    return text if plain else _NOT_PRINTABLE.sub(_escaped, text.decode()).encode()


def _escaped(character: re.Match[str]) -> str:
    return re.sub("....", lambda unit: f"\\u{unit[0]}", character[0].encode("utf-16-be").hex().upper())


def _distinct(pairs: list[tuple[str, Any]]) -> None:
    if len(dict(pairs)) < len(pairs):
        raise _refusal("duplicate key")


def _refusal(reason: str) -> UsageError:
    return UsageError(f"JSON parse error, {reason}")


class _Complaint:
    """Reads a text as QEMU's parser does, up to the first error, which it raises."""

    def __init__(self, text: bytes) -> None:
        self._tokens = _tokens(text)
        self._next = next(self._tokens)

    def value(self) -> str:
        """Read a value and return its kind. Raises UsageError if there is none."""
        kind, text = self._take()
        if kind == "keyword" and text not in (b"true", b"false", b"null"):
            raise _refusal(f"invalid keyword '{text.decode()}'")
        if kind == "string":
            _check_string(text)
        elif text == b"{":
            self._members(b"}", "dict")
        elif text == b"[":
            self._members(b"]", "list")
        elif kind in ("symbol", "end"):
            raise _refusal("expecting value")
        return kind

    def _members(self, end: bytes, what: str) -> None:
        first = True
        while self._next[1] != end:
            if not first and self._take()[1] != b",":
                raise _refusal(f"expected separator in {what}")
            self._pair() if what == "dict" else self.value()
            first = False
        self._take()

    def _pair(self) -> None:
        if self.value() != "string":
            raise _refusal("key is not a string in object")
        if self._take()[1] != b":":
            raise _refusal("missing : in object pair")
        self.value()

    def _take(self) -> tuple[str, bytes]:
        taken, self._next = self._next, next(self._tokens, ("end", b""))
        return taken


def _tokens(text: bytes) -> Iterator[tuple[str, bytes]]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise _refusal(f"stray '{text[at : at + 1].decode(errors='replace')}'")
        assert match.lastgroup
        yield match.lastgroup, match[match.lastgroup]
        at = match.end()
    yield "end", b""


def _check_string(text: bytes) -> None:
    for escape in _ESCAPE.finditer(text):
        if escape["unit"]:
            unit = int(escape["unit"], 16)
            valid = unit not in _LOW_SURROGATES and (unit not in _HIGH_SURROGATES or escape["low"])
        else:
            valid = escape["other"] in b"\"'\\/bfnrt"
            if not valid and escape["other"] != b"u":
                raise _refusal("invalid escape sequence in string")
        if not valid:
            shown = text[escape.start() : escape.start() + 6].decode(errors="replace")
            raise _refusal(f"{shown} is not a valid Unicode character")
    try:
        text.decode()
    except UnicodeDecodeError:
        raise _refusal("invalid UTF-8 sequence in string") from None
