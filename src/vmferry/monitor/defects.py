"""Exceptions that no command should raise: each is told once, and ends neither a connection nor the VM."""

import traceback

_told: set[str] = set()


def tell_defect(error: Exception) -> None:
    """Print the trace of an exception to standard error, unless one from the same line was printed before."""
    place = repr(traceback.extract_tb(error.__traceback__)[-1:])
    if place not in _told:
        _told.add(place)
        traceback.print_exception(error)
