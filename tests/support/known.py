"""Figures that a test takes for known."""

from typing import TypeVar

T = TypeVar("T")


def known(figure: T | None) -> T:
    """Return a figure, which has to be known."""
    assert figure is not None
    return figure
