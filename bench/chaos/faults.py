"""The catalogue of faults, and how one is drawn: pure, and the same for a seed and a number for ever.

Every fault happens at a place in the bytes of a migration, also those that hit a process: so "the destination dies
within COMMIT" is as exact as "the link is cut within COMMIT".
"""

import random
from collections.abc import Callable, Sequence
from enum import StrEnum

import msgspec

PASSING_MS = (50, 300, 1000, 1500)
"""Shorter than any time limit of a migration: it must go on then."""


class Direction(StrEnum):
    """Which of the two streams of a connection."""

    THERE = "there"
    """From the source to the destination."""
    BACK = "back"


class Party(StrEnum):
    """A process that takes part."""

    SOURCE = "source"
    DESTINATION = "destination"
    DRIVER = "driver"


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """A position between two bytes of one direction; never reached if the stream is shorter.

    Counted from the beginning, or if `frame` names a type of frame, from the beginning of the `occurrence`-th of these
    (the pages that follow a frame are part of it); of a shorter frame, its end is meant.
    """

    direction: Direction
    offset_bytes: int
    frame: str = ""
    occurrence: int = 1


class Fault(msgspec.Struct, frozen=True, tag_field="kind", tag=str.lower):
    """Something that breaks at a place."""

    place: Place

    @property
    def name(self) -> str:
        """What is counted together in a summary."""
        return type(self).__name__.lower()


class Nothing(Fault, frozen=True):
    """Nothing breaks."""


class Cut(Fault, frozen=True):
    """The connection ends (FIN); if `half`, only in this direction."""

    half: bool

    @property
    def name(self) -> str:
        """Say which of both."""
        return "half cut" if self.half else "cut"


class Reset(Fault, frozen=True):
    """The connection is reset at both ends (RST)."""


class Stall(Fault, frozen=True):
    """Nothing passes in this direction for a while, then all goes on."""

    duration_ms: int

    @property
    def name(self) -> str:
        """Say whether it is over before anybody loses patience."""
        return "stall" if self.duration_ms <= max(PASSING_MS) else "long stall"


class Drip(Fault, frozen=True):
    """The next bytes pass one by one, with so much time between them."""

    size_bytes: int
    gap_ms: int


class Flip(Fault, frozen=True):
    """One bit of the next byte arrives changed."""

    bit: int


class Replay(Fault, frozen=True):
    """So many of the bytes that passed last are passed again."""

    size_bytes: int


class Kill(Fault, frozen=True):
    """A process gets SIGKILL."""

    who: Party

    @property
    def name(self) -> str:
        """Say whom."""
        return f"kill {self.who}"


class Freeze(Fault, frozen=True):
    """A process stands still (SIGSTOP) for a while."""

    who: Party
    duration_ms: int

    @property
    def name(self) -> str:
        """Say whom."""
        return f"freeze {self.who}"


class Interrupt(Fault, frozen=True):
    """Whoever drives the migration gets SIGINT, and calls it off."""


AnyFault = Nothing | Cut | Reset | Stall | Drip | Flip | Replay | Kill | Freeze | Interrupt

_SOURCE_FRAMES = ("HELLO", "PROOF", "PAGES", "STATE", "DIGEST", "FINISH", "COMMIT")
_DESTINATION_FRAMES = ("CHALLENGE", "ACCEPTED", "READY", "TAKEN_OVER")

CATALOGUE: dict[str, Callable[[random.Random, Place], AnyFault]] = {
    "nothing": lambda _, place: Nothing(place),
    "cut": lambda _, place: Cut(place, half=False),
    "half cut": lambda _, place: Cut(place, half=True),
    "reset": lambda _, place: Reset(place),
    "stall": lambda draw, place: Stall(place, draw.choice(PASSING_MS)),
    "long stall": lambda _, place: Stall(place, 120_000),
    "drip": lambda draw, place: _drip(draw, place),
    "flip": lambda draw, place: Flip(place, draw.randrange(8)),
    "replay": lambda draw, place: Replay(place, draw.choice((1, 16, 17, 4096, 65536))),
    "kill source": lambda _, place: Kill(place, Party.SOURCE),
    "kill destination": lambda _, place: Kill(place, Party.DESTINATION),
    "kill driver": lambda _, place: Kill(place, Party.DRIVER),
    "freeze source": lambda draw, place: Freeze(place, Party.SOURCE, draw.choice(PASSING_MS)),
    "freeze destination": lambda draw, place: Freeze(place, Party.DESTINATION, draw.choice(PASSING_MS)),
    "freeze driver": lambda draw, place: Freeze(place, Party.DRIVER, draw.choice(PASSING_MS)),
    "interrupt": lambda _, place: Interrupt(place),
}
"""By name, how each fault at a place is drawn."""


def may_hit_pages(place: Place) -> bool:
    """Tell whether the content of pages may be at this place of a stream of ours."""
    return place.direction is Direction.THERE and place.frame in ("", "PAGES")


def generator(seed: int, number: int) -> random.Random:
    """Return what draws the run of this number."""
    return random.Random(f"{seed}/{number}")


def frame_place(draw: random.Random, longest_bytes: int) -> Place:
    """Draw a place in a stream of ours: at, within or just after a frame, or anywhere in the first `longest_bytes`."""
    direction = draw.choice(list(Direction))
    if draw.random() < 0.4:
        return Place(direction, _up_to(draw, longest_bytes if direction is Direction.THERE else 150))
    frame = draw.choice(_SOURCE_FRAMES if direction is Direction.THERE else _DESTINATION_FRAMES)
    offset_bytes = draw.choice((0, 1, 15, 16, 17, draw.randrange(64), _up_to(draw, 1 << 16)))
    occurrence = draw.choice((1, 1, 2, 3, 5, 8, 13)) if frame == "PAGES" else 1
    return Place(direction, offset_bytes, frame, occurrence)


def byte_place(draw: random.Random, longest_bytes: int) -> Place:
    """Draw a place in a stream whose inside is not known."""
    direction = draw.choices(list(Direction), (4, 1))[0]
    return Place(direction, _up_to(draw, longest_bytes if direction is Direction.THERE else 16))


def draw_fault(draw: random.Random, names: Sequence[str], place: Callable[[random.Random], Place]) -> AnyFault:
    """Draw one of these faults and its place."""
    return CATALOGUE[draw.choice(names)](draw, place(draw))


def _up_to(draw: random.Random, most: int) -> int:
    """Draw a number; those of each order of magnitude are as likely as those of any other."""
    return round(2 ** draw.uniform(0, most.bit_length())) - 1 if draw.random() < 0.5 else draw.randrange(most)


def _drip(draw: random.Random, place: Place) -> Drip:
    gap_ms = draw.choice((1, 10, 100))
    return Drip(place, draw.randint(1, max(PASSING_MS) // gap_ms), gap_ms)
