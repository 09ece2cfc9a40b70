"""Cuts a stream of bytes into JSON texts, without looking for line ends.

QMP clients need not send a newline after a command, so a message ends where its brackets close, as
in QEMU (`qobject/json-lexer.c`, `json-streamer.c`). After a byte that no JSON text can hold there,
the rest is skipped up to the next bracket, comma, colon or control character, as QEMU does: a client
in doubt sends 0xFF to begin anew. Nothing here grows beyond the limits below, whatever is fed.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_MESSAGE_BYTES = 1 << 20
"""QEMU takes 64 MiB; the longest command that makes sense here has a few KiB."""

MAX_NESTING = 64
"""QEMU takes 1024; the deepest command here needs 4."""

_SPACE = re.compile(rb"[ \t\r\n]*")
_WORD = re.compile(rb"[a-z0-9+.E-]*")


def _string(quote: bytes) -> bytes:
    """Return the pattern of what may stand in a string; there is one way to match it, so no time is lost on others."""
    plain = rb"[^%b\\\x00-\x1f\xfe\xff]*" % quote
    return rb"%b(?:\\[^\x00-\x1f\xfe\xff]%b)*" % (plain, plain)


_QUOTED = {quote: re.compile(_string(quote)) for quote in (b'"', b"'")}
_BARE = rb"[ \t\r\na-z0-9+.E:,-]*"
_FLAT = re.compile(rb"""%b(?:(?:"%b"|'%b')%b)*""" % (_BARE, _string(b'"'), _string(b"'"), _BARE))
"""Inside brackets: all that neither opens nor closes any, whole strings included."""
_CONTROL = re.compile(rb"[\x00-\x1f\xfe\xff]")
_DISCARDED = re.compile(rb"[^{}\[\]:,\x00-\x08\x0a-\x1f\xfe\xff]*")
_SYMBOLS = b"{}[]:,\"'"
_STRING = re.compile(rb""""[^"\\]*(?:\\.[^"\\]*)*"|'[^'\\]*(?:\\.[^'\\]*)*'""", re.DOTALL)
_ESCAPE_OR_QUOTE = re.compile(rb'\\.|"', re.DOTALL)


@dataclass(frozen=True)
class BadInput:
    """Bytes that are no JSON text; when `fatal`, nothing after them is looked at."""

    reason: str
    fatal: bool = False


Frame = bytes | BadInput
"""The text of one JSON value, not yet parsed, or what was wrong instead."""


class Framer:
    """Takes the bytes of one client, or of one monitor, as they come."""

    def __init__(self, max_message_bytes: int = MAX_MESSAGE_BYTES, max_nesting: int = MAX_NESTING) -> None:
        self._max_message_bytes = max_message_bytes
        self._max_nesting = max_nesting
        self._text = bytearray()
        """What has come of the current message."""
        self._braces = 0
        self._brackets = 0
        self._quote = b""
        self._step: Callable[[bytes, int], int] | None = self._between
        """Takes some bytes from a position on and returns the next one; None after a fatal error."""
        self._frames: list[Frame] = []

    def feed(self, data: bytes) -> list[Frame]:
        """Return the messages that `data` completes."""
        position = 0
        while self._step and position < len(data):
            position = self._step(data, position)
            self._check_limits()
        frames, self._frames = self._frames, []
        return frames

    def _between(self, data: bytes, position: int) -> int:
        start = _end_of(_SPACE, data, position)
        if start == len(data):
            return start
        if _end_of(_WORD, data, start) > start:
            self._step = self._in_word
            return start
        return self._symbol(data, start)

    def _in_word(self, data: bytes, position: int) -> int:
        """A number or keyword outside all brackets ends with the first other byte."""
        end = _end_of(_WORD, data, position)
        self._text += data[position:end]
        if end < len(data):
            self._finish_value()
        return end

    def _inside(self, data: bytes, position: int) -> int:
        end = _end_of(_FLAT, data, position)
        self._text += data[position:end]
        return self._symbol(data, end) if end < len(data) else end

    def _symbol(self, data: bytes, position: int) -> int:
        byte = data[position : position + 1]
        if byte not in _SYMBOLS:
            return self._stray(position)
        self._text += byte
        if byte in _QUOTED:
            self._quote, self._step = byte, self._in_string
            return position + 1
        self._braces += (byte == b"{") - (byte == b"}")
        self._brackets += (byte == b"[") - (byte == b"]")
        self._finish_value()
        return position + 1

    def _in_string(self, data: bytes, position: int) -> int:
        end = _end_of(_QUOTED[self._quote], data, position)
        self._text += data[position:end]
        if end == len(data):
            return end
        byte = data[end : end + 1]
        if byte not in (self._quote, b"\\"):
            return self._stray(end)
        self._text += byte
        if byte == self._quote:
            self._finish_value()
        else:
            self._step = self._after_backslash
        return end + 1

    def _after_backslash(self, data: bytes, position: int) -> int:
        """Where a piece of data ended in the middle of an escape sequence."""
        if _CONTROL.match(data, position):
            return self._stray(position)
        self._text += data[position : position + 1]
        self._step = self._in_string
        return position + 1

    def _stray(self, position: int) -> int:
        self._emit(BadInput("JSON parse error, stray byte"))
        self._step = self._recover
        return position + 1

    def _recover(self, data: bytes, position: int) -> int:
        end = _end_of(_DISCARDED, data, position)
        if end < len(data):
            self._step = self._between
        return end

    def _finish_value(self) -> None:
        """Emit the message if it is complete, or if it can no longer become so."""
        if min(self._braces, self._brackets) < 0 or self._braces == self._brackets == 0:
            self._emit(_with_double_quotes(bytes(self._text)))
        else:
            self._step = self._inside

    def _emit(self, frame: Frame) -> None:
        self._frames.append(frame)
        self._text.clear()
        self._braces = self._brackets = 0
        self._step = self._between

    def _check_limits(self) -> None:
        if len(self._text) > self._max_message_bytes:
            self._give_up("JSON token size limit exceeded")
        elif self._braces + self._brackets > self._max_nesting:
            self._give_up("JSON nesting depth limit exceeded")

    def _give_up(self, reason: str) -> None:
        self._emit(BadInput(reason, fatal=True))
        self._step = None


def _end_of(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    """Return the end of what a pattern that also matches nothing matches at `position`."""
    match = pattern.match(data, position)
    assert match
    return match.end()


def _with_double_quotes(text: bytes) -> bytes:
    """Turn QEMU's single-quoted strings and its escape \\' into plain JSON."""
    return _STRING.sub(_requoted, text) if b"'" in text else text


def _requoted(string: re.Match[bytes]) -> bytes:
    return b'"' + _ESCAPE_OR_QUOTE.sub(_reescaped, string[0][1:-1]) + b'"'


def _reescaped(match: re.Match[bytes]) -> bytes:
    match match[0]:
        case b'"':
            return b'\\"'
        case b"\\'":
            return b"'"
        case escape:
            return escape
