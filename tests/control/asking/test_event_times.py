"""When events happened, however late they were heard, and whatever the VM's clock says."""

from hypothesis import given
from hypothesis import strategies as st

from vmferry.client.qmp_client import Event
from vmferry.control.asking.event_times import EventTimes

S = 1_000_000_000
events = st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), min_size=1, max_size=10)


@given(events.map(sorted), st.integers(-(10**6), 10**9))
def test_an_event_is_told_late_by_no_more_than_the_one_that_was_heard_soonest(
    happened: list[tuple[int, int]], apart_s: int
) -> None:
    times, soonest_s = EventTimes(), 1000
    for at_s, late_s in happened:
        soonest_s = min(soonest_s, late_s)
        told_ns = times.of(Event("STOP", {}, at_s + apart_s), (at_s + late_s) * S)
        assert told_ns == (at_s + soonest_s) * S
