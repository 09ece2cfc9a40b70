"""Goals are kept, or it is said that they cannot be; `python -m bench.goals` shows more of them."""

import pytest
from bench.goals import trial

COUNTED_UNTIL_THE_HAND_OVER_IS_OVER = 20
ON_A_LINK_THAT_MOVES_IN_STEPS = 38
HOPELESS, IN_REACH_FROM_THE_FIRST_MOMENT = 98, 104


@pytest.mark.parametrize("seed", [COUNTED_UNTIL_THE_HAND_OVER_IS_OVER, ON_A_LINK_THAT_MOVES_IN_STEPS])
def test_what_may_be_lost_is_kept_with_a_driven_guest(seed: int) -> None:
    assert list(trial(seed).misses(trial(seed).result)) == []


def test_what_is_in_reach_is_found_by_throttles_that_are_held() -> None:
    assert trial(IN_REACH_FROM_THE_FIRST_MOMENT).in_reach
    hopeless = trial(HOPELESS)
    assert hopeless.told_s is not None
    assert not hopeless.in_reach
    assert list(hopeless.faults()) == []


def test_the_same_seed_gives_the_same_goals() -> None:
    assert trial(7) == trial(7) != trial(8)
