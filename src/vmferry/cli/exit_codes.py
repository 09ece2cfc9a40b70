"""What the exit codes of every command mean; docs/exit-codes.md tells users."""

from enum import IntEnum

_SIGNAL_BASE = 128


class ExitCode(IntEnum):
    """How a command ended."""

    DONE = 0
    FAILED = 1
    """The message says why, and what is true now."""
    USAGE = 2
    UNVERIFIED = 3
    """A migration completed as far as the source tells, but nobody knows whether the guest has arrived."""
    LIMIT_NOT_KEPT = 4
    """A migration completed, but something that was limited went over its limit."""
    MAY_CONVERGE = 5
    """A forecast: some runs converge, and some do not."""
    WILL_NOT_CONVERGE = 6
    """A forecast: no strategy makes the guest converge."""


def interrupted_by(signal_number: int) -> int:
    """Return the exit code of a command that was interrupted: 130 for Ctrl-C, as shells have it."""
    return _SIGNAL_BASE + signal_number
