"""Every promise that can be broken is missed when it is."""

from typing import Any

import msgspec
import pytest
from bench.chaos.check import Ended, Observation, Outcome, Side, outcome, violations
from bench.chaos.faults import Cut, Direction, Flip, Kill, Party, Place, Stall

PLACE = Place(Direction.THERE, 100)
CUT = Cut(PLACE, half=False)
RUNS, STANDS, GONE = Side(True, True), Side(True, False), Side(False, False)

MOVED = Observation(
    fault=CUT,
    has_fired=False,
    ended=Ended.COMPLETED,
    source=STANDS,
    destination=RUNS,
    is_protected=True,
    exit_code=0,
    last_words="{}",
)
STAYED = msgspec.structs.replace(
    MOVED, has_fired=True, ended=Ended.FAILED, source=RUNS, destination=GONE, exit_code=1, last_words="error: lost"
)
DOUBT = msgspec.structs.replace(STAYED, ended=Ended.IN_DOUBT, source=STANDS, destination=RUNS)

WINDOW = msgspec.structs.replace(STAYED, destination=RUNS, has_window=True)


def changed(seen: Observation, **changes: Any) -> Observation:
    return msgspec.structs.replace(seen, **changes)


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (MOVED, Outcome.MOVED),
        (STAYED, Outcome.STAYED),
        (changed(STAYED, ended=Ended.CANCELLED, exit_code=None, last_words=""), Outcome.STAYED),
        (DOUBT, Outcome.DOUBTED),
        (changed(DOUBT, destination=STANDS), Outcome.PAUSED),
        (changed(STAYED, fault=Kill(PLACE, Party.SOURCE), ended=Ended.UNKNOWN, source=GONE), Outcome.DIED),
        (changed(MOVED, fault=Kill(PLACE, Party.DESTINATION), has_fired=True, destination=GONE), Outcome.DIED),
        (changed(MOVED, fault=Kill(PLACE, Party.SOURCE), has_fired=True, source=GONE), Outcome.MOVED),
        (changed(WINDOW, last_words="error: look whether the destination runs, too"), Outcome.WINDOW),
        (
            changed(MOVED, fault=Flip(PLACE, 1), has_fired=True, is_protected=False, damage="page 5"),
            Outcome.UNPROTECTED,
        ),
    ],
)
def test_what_may_be_is_no_violation(seen: Observation, expected: Outcome) -> None:
    assert violations(seen) == []
    assert outcome(seen) is expected


@pytest.mark.parametrize(
    ("seen", "complaint"),
    [
        (changed(MOVED, source=RUNS), "two running copies"),
        (changed(STAYED, both_ran=True), "two running copies"),
        (changed(DOUBT, source=RUNS, destination=GONE), "may be elsewhere"),
        (changed(WINDOW, last_words="error: see the destination's log"), "two running copies"),
        (changed(WINDOW, last_words="look whether the destination runs", has_window=False), "two running copies"),
        (changed(STAYED, source=STANDS), "no running copy"),
        (changed(MOVED, destination=GONE), "no running copy"),
        (changed(STAYED, fault=Kill(PLACE, Party.DRIVER), source=STANDS), "no running copy"),
        (changed(MOVED, fault=Kill(PLACE, Party.DESTINATION), destination=GONE), "no running copy"),
        (changed(MOVED, damage="page 5"), "memory: page 5"),
        (changed(MOVED, fault=Flip(PLACE, 1), has_fired=True, damage="page 5"), "memory: page 5"),
        (changed(MOVED, fault=Flip(PLACE, 1), is_protected=False, damage="page 5"), "memory: page 5"),
        (changed(STAYED, ended=Ended.COMPLETED), "says completed"),
        (changed(STAYED, exit_code=0), "exit code is 0"),
        (changed(MOVED, ended=Ended.FAILED), "says failed"),
        (changed(MOVED, exit_code=1), "exit code is 1"),
        (changed(STAYED, last_words=""), "without a word"),
        (changed(STAYED, last_words="Traceback (most recent call last)"), "traceback"),
        (changed(STAYED, has_fired=False), "nothing broke for long"),
        (changed(STAYED, fault=Stall(PLACE, 50)), "nothing broke for long"),
        (changed(STAYED, left_behind=("a throttle of 99 %",)), "not put back: a throttle of 99 %"),
        (changed(MOVED, overdue=("the driver ran 70 s",)), "overdue: the driver ran 70 s"),
    ],
)
def test_a_broken_promise_is_named(seen: Observation, complaint: str) -> None:
    assert any(complaint in violation for violation in violations(seen)), violations(seen)
    assert outcome(seen) is Outcome.BROKEN
