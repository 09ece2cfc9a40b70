"""The planning policy ends where a ladder does, on hosts, links and guests that are not as they seem."""

import pytest
from bench.against_ladder import both

GIVEN_UP_BY_PLANS_ALONE = (65, 69, 225, 226, 246, 258)
SEEN_IN_WHOLE_SECONDS = (208,)
SOME = (0, 6, 17)


@pytest.mark.parametrize("seed", [*GIVEN_UP_BY_PLANS_ALONE, *SEEN_IN_WHOLE_SECONDS, *SOME])
def test_planned_ends_where_the_ladder_does_in_half_as_much_time_more_and_five_seconds(seed: int) -> None:
    ladder, planned = both(seed)
    assert ladder.completed
    assert planned
    assert planned.completed
