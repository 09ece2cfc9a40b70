"""Virtual time."""

from vmferry.simulation.clock import VirtualClock


def test_time_passes_only_by_sleeping() -> None:
    clock = VirtualClock()
    clock.sleep_ns(5)
    clock.sleep_ns(-5)
    assert clock.now_ns() == 5


def test_events_happen_in_a_total_order_at_their_own_time() -> None:
    clock, seen = VirtualClock(), []

    def note(name: str) -> None:
        seen.append((name, clock.now_ns()))

    clock.schedule(20, lambda: note("late"))
    clock.schedule(10, lambda: note("second"), priority=1)
    clock.schedule(10, lambda: note("third"), priority=1)
    clock.schedule(10, lambda: note("first"), priority=0)
    clock.schedule(15, lambda: clock.schedule(16, lambda: note("nested")))
    clock.sleep_ns(18)
    assert seen == [("first", 10), ("second", 10), ("third", 10), ("nested", 16)]
    clock.sleep_ns(2)
    assert seen[-1] == ("late", 20)


def test_an_event_that_sleeps_moves_time_on() -> None:
    clock = VirtualClock()
    clock.schedule(10, lambda: clock.sleep_ns(100))
    clock.sleep_ns(20)
    assert clock.now_ns() == 110
