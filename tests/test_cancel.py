"""A token is set once, by anybody; who looks at it is told why, until it is closed."""

import threading

import pytest

from vmferry.cancel import CancelToken
from vmferry.errors import CancelledError


def test_nobody_is_told_to_end_before_somebody_wants_it() -> None:
    token = CancelToken()
    token.check()
    assert (token.is_set, token.signal_number) == (False, None)


def test_the_first_reason_counts() -> None:
    token = CancelToken()
    token.set("interrupted", 15)
    token.set("too late", 2)
    with pytest.raises(CancelledError, match="interrupted"):
        token.check()
    assert token.signal_number == 15


def test_of_many_threads_one_is_the_first_for_everybody() -> None:
    token, barrier = CancelToken(), threading.Barrier(8)
    seen: list[int | None] = []

    def ask(number: int) -> None:
        barrier.wait()
        token.set("enough", number)
        seen.append(token.signal_number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(seen)) == 1


@pytest.mark.parametrize("before", [False, True])
def test_a_closed_token_ends_nothing_and_stays_what_it_was(before: bool) -> None:
    token = CancelToken()
    if before:
        token.set("interrupted", 2)
    token.close()
    token.set("interrupted", 15)
    token.check()
    assert (token.is_set, token.signal_number) == (before, 2 if before else None)
