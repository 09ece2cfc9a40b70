"""Texts that may come from anyone, as reports may show them."""

from vmferry.bounds import one_line

MAX_TEXT_CHARACTERS = 200


def clean_text(text: str) -> str:
    """Return text that may come from anyone as it may be shown in a table: on one line, and not too long."""
    return one_line(text[:MAX_TEXT_CHARACTERS])
