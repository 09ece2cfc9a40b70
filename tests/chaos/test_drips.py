"""A connection that drips from some byte on: what a byte now and then keeps waiting, and for how long; in no time."""

import itertools
from functools import partial

import pytest
from bench.chaos.byte_link import ByteLink
from bench.chaos.faults import Direction, Drip, Place

from tests.support.loopback import Pair
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Owner

S = 10**9
MIB = 1 << 20
FOR_EVER = 1 << 40
TIMEOUT_MS = 4000
PAGES_BEFORE_THE_SWITCHOVER = 4
"""Frames that are sent while the guest runs, if nothing goes wrong; those after them belong to the switchover."""


def migrate(place: Place, gap_ms: int) -> Pair:
    """Migrate a guest that is written until it stops; from `place` on a byte passes every `gap_ms`."""
    pair = Pair(
        bytes_per_s=MIB,
        make_channel=partial(ByteLink, fault=Drip(place, FOR_EVER, gap_ms)),
        switchover_timeout=TIMEOUT_MS,
        stall_timeout=20_000,
        verify=True,
    )
    pair.channel.before_send = lambda message: pair.here.write(3, 7) if pair.here.running else None
    pair.source.run()
    return pair


FRAMES = {
    Direction.THERE: ("HELLO", "PROOF", "STATE", "DIGEST", "FINISH"),
    Direction.BACK: ("CHALLENGE", "ACCEPTED", "READY"),
}
BEFORE_COMMIT = [
    Place(direction, offset_bytes, frame)
    for direction, frames in FRAMES.items()
    for frame, offset_bytes in itertools.product(frames, (0, 1, 14))
] + [
    Place(Direction.THERE, offset_bytes, "PAGES", occurrence)
    for offset_bytes in (0, 1, 17, 5000)
    for occurrence in (1, 2, PAGES_BEFORE_THE_SWITCHOVER, PAGES_BEFORE_THE_SWITCHOVER + 1)
]


@pytest.mark.parametrize("gap_ms", [80, 900, 7000])
@pytest.mark.parametrize(
    "place", BEFORE_COMMIT, ids=lambda place: f"{place.frame} {place.occurrence} {place.offset_bytes}"
)
def test_whatever_drips_before_commit_the_guest_runs_on_in_time(place: Place, gap_ms: int) -> None:
    pair = migrate(place, gap_ms)
    assert pair.channel.has_fired
    if pair.source.owner is Owner.DESTINATION:  # little was left to drip but Commit itself
        assert pair.there.running
        assert pair.channel.stopped_ns <= TIMEOUT_MS * 10**6 + 30 * S
    else:
        assert pair.source.owner is Owner.SOURCE
        assert pair.source.status is MigrationStatus.FAILED
        assert pair.here.running
        assert pair.source.error
        assert pair.channel.stopped_ns <= 2 * TIMEOUT_MS * 10**6
    assert pair.clock.now_ns() < 100 * S


@pytest.mark.parametrize("gap_ms", [80, 900, 7000])
@pytest.mark.parametrize("frame", ["COMMIT", "TAKEN_OVER"])
@pytest.mark.parametrize("offset_bytes", [0, 1, 16])
def test_what_drips_afterwards_is_the_destinations_or_in_doubt(frame: str, offset_bytes: int, gap_ms: int) -> None:
    pair = migrate(Place(Direction.THERE if frame == "COMMIT" else Direction.BACK, offset_bytes, frame), gap_ms)
    assert pair.source.owner is not Owner.SOURCE
    assert not pair.here.running
    if pair.source.owner is Owner.IN_DOUBT:
        assert "hand-over in doubt" in (pair.source.error or "")
    assert pair.clock.now_ns() < 100 * S
