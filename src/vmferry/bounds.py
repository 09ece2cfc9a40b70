"""Bounds of what may come from anyone: numbers that can be reckoned with, text that can be shown."""

from typing import Annotated
from uuid import UUID

import msgspec

from vmferry.errors import UsageError

_MAX_TEXT_CHARACTERS = 200
LARGEST = 1 << 62
"""Of whole numbers; what is larger is not told from it, or refused."""
Integer = Annotated[int, msgspec.Meta(ge=-LARGEST, le=LARGEST)]
Natural = Annotated[int, msgspec.Meta(ge=0, le=LARGEST)]
Number = Annotated[float, msgspec.Meta(ge=-1e18, le=1e18)]


def one_line(text: str) -> str:
    """Return text as it may be shown: on one line, and without what moves a terminal's cursor."""
    return "".join(character if character.isprintable() else "?" for character in text)


def clean_text(text: str) -> str:
    """Return text as it may be shown in a table or a report: on one line, and not too long."""
    return one_line(text[:_MAX_TEXT_CHARACTERS])


def parse_uuid(text: str) -> str:
    """Return a UUID as it is usually written. Raises UsageError."""
    try:
        return str(UUID(text))
    except ValueError:
        raise UsageError(f"'{one_line(text)}' is not a UUID; write 32 hexadecimal digits") from None
