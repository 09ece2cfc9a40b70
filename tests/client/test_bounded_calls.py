"""Calls that hang hold nobody up, and their answers are those of the calls."""

import signal
import threading
from collections.abc import Iterator

import pytest

from vmferry.client.bounded_calls import BoundedCalls


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


def test_a_signal_interrupts_who_waits_for_a_call_that_hangs(calls: BoundedCalls) -> None:
    end = threading.Event()
    waiting = threading.main_thread().ident
    assert waiting

    def call() -> None:
        signal.pthread_kill(waiting, signal.SIGINT)
        end.wait()

    with pytest.raises(KeyboardInterrupt):
        calls.make(call, 1e6)
    end.set()
    assert calls.make(lambda: 7, 10) == 7
