"""Proxmox' doubling of the downtime limit, look by look, and against a plain account of its loop."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from tests.support.looks import Looks
from vmferry.convergence.limits import MAX_DOWNTIME_MS
from vmferry.convergence.policies.proxmox import Proxmox, ProxmoxSettings

SETTINGS = ProxmoxSettings()


def doubled_by(answers: list[tuple[int, int]], *, interval_s: float = 1.0) -> list[int]:
    """Return the limits set after the first, one answer of (sent, remaining) per interval."""
    looks = Looks(Proxmox(), SETTINGS)
    assert looks.limit_at(0) == 100
    limits = (
        looks.limit_at(number * interval_s, sent_bytes=sent, remaining_bytes=remaining)
        for number, (sent, remaining) in enumerate(answers, 1)
    )
    return [limit for limit in limits if limit is not None]


def course(remaining: list[int]) -> list[tuple[int, int]]:
    return [(number + 1, bytes_) for number, bytes_ in enumerate(remaining)]


def test_the_sixth_growth_doubles_it() -> None:
    up_and_down = [1000, *[900, 1000] * 6]
    assert doubled_by(course(up_and_down)) == [200]
    assert doubled_by(course(up_and_down[:-1])) == []
    assert doubled_by(course([1000, *[900, 1000] * 18])) == [200, 400, 800]


def test_nothing_left_counts_as_growth() -> None:
    assert doubled_by(course([1000, 0, 0, 0, 0, 0, 0])) == [200]


def test_answers_after_which_nothing_was_sent_do_not_count() -> None:
    assert doubled_by([(10, 1000), *[(10, 1000 + more) for more in range(20)]]) == []


def test_growing_between_looks_is_not_seen() -> None:
    assert doubled_by(course([1000, *[900, 1000] * 6]), interval_s=0.5) == []


def test_once_little_remains_it_looks_ten_times_per_second() -> None:
    looks = Looks(Proxmox(), SETTINGS)
    looks.at(0)
    looks.at(1, sent_bytes=1000, remaining_bytes=5000)
    looks.at(2, sent_bytes=2000, remaining_bytes=400)
    limits = [
        looks.limit_at(2 + tenth / 10, sent_bytes=2000 + tenth, remaining_bytes=300 + 100 * (tenth % 2))
        for tenth in range(1, 15)
    ]
    assert limits.index(200) == 12


def test_it_never_asks_for_more_than_qemu_takes() -> None:
    limits = doubled_by(course([1000, *[900, 1000] * 200]))
    assert limits[-1] == MAX_DOWNTIME_MS
    assert limits == sorted(limits)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=80))
def test_it_follows_the_loop_that_proxmox_has(steps: list[tuple[int, int]]) -> None:
    sent, answers = 0, []
    for more, remaining in steps:
        sent += more
        answers.append((sent, remaining * 10**9))
    assert doubled_by(answers) == list(_as_in_the_loop(answers))


def _as_in_the_loop(answers: list[tuple[int, int]]) -> Iterator[int]:
    counter, last_remaining, last_sent, limit = 0, 0, 0, 100
    for sent, remaining in answers:
        if sent != last_sent:
            if (last_remaining and remaining > last_remaining) or remaining == 0:
                counter += 1
            last_remaining = remaining
            if counter > 5:
                counter, limit = 0, limit * 2
                yield limit
        last_sent = sent
