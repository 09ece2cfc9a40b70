"""Why a migration did not complete: a few classes, for those who count them."""

import re
from enum import StrEnum

from vmferry.control.asking.result import Result
from vmferry.migration.status import MigrationStatus

_OF_CONNECTIONS = re.compile(
    r"socket|connect|channel|broken pipe|timed out|unreachable|no route|resolve|tls", re.IGNORECASE
)


class Failure(StrEnum):
    """What kept a migration from completing."""

    GIVEN_UP = "given-up"
    """What decides has cancelled it, as a limit was over or would be."""
    CANCELLED = "cancelled"
    """Somebody else has."""
    CONNECTION = "connection"
    """It failed, and the VM's words are about a connection."""
    IN_DOUBT = "in-doubt"
    """Nobody knows whether the destination has the guest."""
    UNSEEN = "unseen"
    """Nobody saw its end."""
    OTHER = "other"
    """It failed, whatever the VM said."""


def failure_of(result: Result) -> Failure | None:
    """Return the class of a migration that has ended; None if it completed."""
    if result.completed:
        return None
    if result.gave_up:
        return Failure.GIVEN_UP
    match result.last.status:
        case MigrationStatus.CANCELLED | MigrationStatus.CANCELLING:
            return Failure.CANCELLED
        case MigrationStatus.IN_DOUBT:
            return Failure.IN_DOUBT
    return Failure.CONNECTION if _OF_CONNECTIONS.search(result.last.error or "") else Failure.OTHER
