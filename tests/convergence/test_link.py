from hypothesis import given
from hypothesis import strategies as st

from vmferry.convergence.link import LinkWatch

S = 10**9
MIB = 1 << 20
LARGE = 1 << 50


class Link:
    """A link that is looked at ten times per second."""

    def __init__(self) -> None:
        self.now_ns = self.sent_bytes = 0
        self.remaining_bytes = LARGE
        self.watch = LinkWatch(2 * S)
        self.watch.look(0, 0, LARGE)

    def carry(self, seconds: float, bytes_per_s: float, *, zero_bytes_per_s: int = 0, limit: int = 0) -> int:
        for _ in range(round(seconds * 10)):
            self.now_ns += S // 10
            self.sent_bytes += round(bytes_per_s / 10)
            self.remaining_bytes -= round((bytes_per_s + zero_bytes_per_s) / 10)
            self.watch.look(self.now_ns, self.sent_bytes, self.remaining_bytes, limit)
        return self.watch.still_ns


def test_a_link_that_carries_nothing_stands_still_after_its_patience() -> None:
    link = Link()
    assert link.carry(10, MIB) == 0
    assert link.carry(1.9, 0) == 0
    assert link.carry(0.1, 0) == 2 * S
    assert link.carry(18, 0) == 20 * S
    assert link.carry(1, MIB) == 0
    assert 20 * S <= link.watch.total_still_ns <= 21 * S


def test_a_link_that_never_carried_anything_stands_still_too() -> None:
    assert Link().carry(5, 0) == 5 * S


def test_a_trickle_is_no_progress() -> None:
    link = Link()
    link.carry(60, 100 * MIB)
    assert link.carry(100, 64 * 1024) >= 99 * S


def test_a_link_that_is_much_slower_now_does_not_stand_still() -> None:
    link = Link()
    link.carry(60, 100 * MIB)
    assert link.carry(60, 2 * MIB) == 0
    assert link.watch.total_still_ns == 0


def test_a_burst_at_first_does_not_count_for_ever() -> None:
    link = Link()
    link.carry(1, 1200 * MIB)
    assert link.carry(300, 6 * MIB) == 0


def test_a_rate_limit_that_is_lowered_is_not_the_links_fault() -> None:
    link = Link()
    link.carry(100, 1000 * MIB)
    assert link.carry(300, MIB, limit=MIB) == 0
    assert link.watch.total_still_ns == 0


def test_pages_that_need_no_sending_are_progress() -> None:
    link = Link()
    link.carry(10, 1000 * MIB)
    assert link.carry(30, 1000, zero_bytes_per_s=1000 * MIB) == 0
    link.carry(30, MIB // 8, zero_bytes_per_s=5000 * MIB)
    assert link.carry(30, 12 * MIB) == 0


def test_memory_that_gets_dirty_is_no_progress() -> None:
    link = Link()
    link.carry(10, MIB)
    for _ in range(100):
        link.now_ns += S // 10
        link.remaining_bytes += MIB
        link.watch.look(link.now_ns, link.sent_bytes, link.remaining_bytes)
    assert link.watch.still_ns == 10 * S


def test_time_that_the_body_was_busy_for_is_not_silence() -> None:
    link = Link()
    link.carry(10, MIB)
    link.now_ns += 5 * S
    link.watch.pass_over(5 * S)
    assert link.carry(1, 0) == 0
    assert link.carry(1, 0) == 2 * S


def test_a_body_that_stood_still_itself_blames_no_link() -> None:
    link = Link()
    link.carry(10, MIB)
    link.now_ns += 3600 * S
    assert link.carry(1, 0) < 2 * S
    assert link.carry(1, MIB) == 0
    assert link.watch.total_still_ns == 0


def test_half_a_silent_period_is_silence_at_once() -> None:
    link = Link()
    link.carry(10, MIB)
    link.carry(0.2, 0)
    assert link.watch.still_since(0, S // 2) == 0
    link.carry(0.4, 0)
    assert link.watch.still_since(0, S) == S * 6 // 10
    assert link.watch.still_since(0, 2 * S) == 0
    link.carry(1, MIB)
    assert link.watch.still_since(0, S) == 0
    link.carry(30, 0)
    before_ns = link.watch.total_still_ns
    link.carry(5, 0)
    assert link.watch.still_since(before_ns, 5 * S) == 5 * S


@given(
    st.lists(st.tuples(st.integers(1, 3 * S), st.integers(0, 1 << 40), st.integers(0, 1 << 50), st.integers(0, MIB)))
)
def test_silence_is_never_more_than_the_time_that_passed(course: list[tuple[int, int, int, int]]) -> None:
    watch, now_ns, sent_bytes = LinkWatch(2 * S), 0, 0
    watch.look(0, 0, 0)
    for step_ns, more_bytes, remaining_bytes, limit in course:
        now_ns, sent_bytes = now_ns + step_ns, sent_bytes + more_bytes
        watch.look(now_ns, sent_bytes, remaining_bytes, limit)
        assert 0 <= watch.still_ns <= watch.total_still_ns <= now_ns
        assert watch.still_ns == 0 or watch.still_ns >= 2 * S


def test_it_does_not_matter_what_the_clock_shows_at_the_beginning() -> None:
    watch = LinkWatch(2 * S)
    for tenth in range(100):
        watch.look(5000 * S + tenth * S // 10, tenth * MIB, LARGE)
        assert watch.still_since(0, S) == 0
    assert watch.total_still_ns == 0
