"""What must hold after a run, whatever broke in it. Pure: an observation in, an outcome and violations out.

Nothing here knows how a migration was made; what was seen of it, from outside, decides.
"""

from enum import StrEnum

import msgspec

from bench.chaos.faults import AnyFault, Flip, Kill, Party
from vmferry.cli.exit_codes import ExitCode

_TOLD_TO_LOOK = "look whether the destination runs"
_DONE = (ExitCode.DONE, ExitCode.LIMIT_NOT_KEPT)
_PASSING = {"nothing", "stall", "drip", "freeze source", "freeze destination", "freeze driver"}
"""Faults that are over before anybody loses patience."""


class Ended(StrEnum):
    """How a migration ended, by the source's own word."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    IN_DOUBT = "in doubt"
    """Failed, and the source does not know who has the guest."""
    UNKNOWN = "unknown"
    """The source is gone."""


class Outcome(StrEnum):
    """Where the guest is after a run."""

    MOVED = "moved"
    STAYED = "stayed"
    PAUSED = "in doubt, paused here"
    """A person decides; the destination does not have it."""
    DOUBTED = "in doubt, runs there"
    WINDOW = "QEMU's hand-over window: two copies"
    """The destination's last word was lost, QEMU's source let the guest run on, and nobody could ask the other."""
    DIED = "died with its killed owner"
    UNPROTECTED = "moved, a flipped bit unnoticed"
    """In what nothing protects: content of pages that were sent while the guest ran, without `verify`."""
    BROKEN = "violation"


class Side(msgspec.Struct, frozen=True):
    """One end after the run, when nothing changes any more."""

    alive: bool
    runs: bool


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of one run, from outside."""

    fault: AnyFault
    has_fired: bool
    ended: Ended
    source: Side
    destination: Side
    both_ran: bool = False
    """At some moment, both sides ran the guest."""
    has_window: bool = False
    """QEMU's own protocol, without a monitor of the destination."""
    is_protected: bool
    """A bit that flips anywhere must be noticed."""
    damage: str = ""
    """What is wrong with the memory of the guest where it runs, or is paused; empty if it is one moment of its life."""
    exit_code: int | None = None
    """Of who drove the migration; None if nobody did, or if it was killed."""
    last_words: str = ""
    left_behind: tuple[str, ...] = ()
    """What was not put back."""
    overdue: tuple[str, ...] = ()
    """What took longer than it may."""


def killed(observation: Observation) -> Party | None:
    """Return who was killed on purpose."""
    fault = observation.fault
    return fault.who if isinstance(fault, Kill) and observation.has_fired else None


def is_in_window(seen: Observation) -> bool:
    """Tell whether QEMU's protocol left two copies, and whoever drove the migration was told to look for them."""
    both_run = seen.source.runs and seen.destination.runs
    is_told = seen.exit_code is None or _TOLD_TO_LOOK in seen.last_words
    has_failed = seen.ended in (Ended.FAILED, Ended.CANCELLED)
    return seen.has_window and seen.has_fired and has_failed and both_run and is_told


def outcome(seen: Observation) -> Outcome:
    """Return where the guest is, as far as no promise is broken."""
    if violations(seen):
        return Outcome.BROKEN
    if is_in_window(seen):
        return Outcome.WINDOW
    if seen.damage:
        return Outcome.UNPROTECTED
    if seen.ended is Ended.IN_DOUBT:
        return Outcome.DOUBTED if seen.destination.runs else Outcome.PAUSED
    if seen.destination.runs:
        return Outcome.MOVED
    return Outcome.STAYED if seen.source.runs else Outcome.DIED


def violations(seen: Observation) -> list[str]:
    """Return every promise that was broken, in words."""
    found = [*_ownership(seen), *_memory(seen), *_words(seen)]
    found += [f"not put back: {what}" for what in seen.left_behind]
    return found + [f"overdue: {what}" for what in seen.overdue]


def _ownership(seen: Observation) -> list[str]:
    """Never two, and one unless its owner was killed or the source says that it does not know."""
    if is_in_window(seen):
        return []
    if seen.both_ran or (seen.source.runs and seen.destination.runs):
        return ["two running copies"]
    if seen.ended is Ended.IN_DOUBT and seen.source.runs:
        return ["the source runs a guest of which it says that it may be elsewhere"]
    if seen.source.runs or seen.destination.runs or seen.ended is Ended.IN_DOUBT:
        return []
    return [] if killed(seen) in (Party.SOURCE, Party.DESTINATION) else ["no running copy"]


def _memory(seen: Observation) -> list[str]:
    if not seen.damage or (isinstance(seen.fault, Flip) and seen.has_fired and not seen.is_protected):
        return []
    return [f"memory: {seen.damage}"]


def _words(seen: Observation) -> list[str]:
    """What the source and the driver say agrees with where the guest is."""
    found = []
    if seen.ended is not Ended.COMPLETED and (seen.fault.name in _PASSING or not seen.has_fired):
        found.append(f"nothing broke for long, but the migration ended as {seen.ended}")
    gone = killed(seen) is Party.DESTINATION
    if seen.ended is Ended.COMPLETED and not (seen.destination.runs or gone):
        found.append("the source says completed, but the destination does not run")
    if seen.ended in (Ended.FAILED, Ended.CANCELLED) and not seen.source.runs:
        found.append(f"the source says {seen.ended}, but it does not run")
    if seen.exit_code in _DONE and not (seen.destination.runs or gone):
        found.append(f"the driver's exit code is {seen.exit_code}, but the destination does not run")
    if seen.ended is Ended.COMPLETED and seen.exit_code not in (*_DONE, ExitCode.UNVERIFIED, None):
        found.append(f"the guest has moved, but the driver's exit code is {seen.exit_code}")
    if not seen.last_words and seen.exit_code not in (0, None):
        found.append(f"the driver ended with {seen.exit_code} without a word")
    if "Traceback" in seen.last_words:
        found.append("the driver ended with a traceback")
    return found
