"""Calls that hang hold nobody up, and their answers are those of the calls."""

import threading
from collections.abc import Iterator

import pytest

from vmferry.cancel import CancelToken
from vmferry.client.bounded_calls import BoundedCalls
from vmferry.errors import CancelledError


@pytest.fixture
def calls() -> Iterator[BoundedCalls]:
    made = BoundedCalls("test calls")
    yield made
    made.end()


def test_answers_and_errors_are_those_of_the_call(calls: BoundedCalls) -> None:
    assert calls.make(lambda: 7, 10) == 7
    with pytest.raises(ZeroDivisionError):
        calls.make(lambda: 1 // 0, 10)
    assert not calls.hang


def test_after_a_call_that_hangs_nobody_waits_any_more(calls: BoundedCalls) -> None:
    end = threading.Event()
    with pytest.raises(TimeoutError):
        calls.make(end.wait, 0.01)
    assert calls.hang
    made: list[int] = []
    with pytest.raises(TimeoutError):
        calls.make(lambda: made.append(1), 1e6)
    end.set()
    assert made == []


def test_who_waits_for_a_call_that_hangs_can_be_cancelled(calls: BoundedCalls) -> None:
    end, cancel = threading.Event(), CancelToken()

    def call() -> None:
        cancel.set("enough")
        end.wait()

    with pytest.raises(CancelledError, match="enough"):
        calls.make(call, 1e6, cancel.check)
    end.set()
    assert calls.make(lambda: 7, 10) == 7
