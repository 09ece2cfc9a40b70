"""Makes calls into a library that knows no limit of time, so that nobody waits long for one."""

import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import TypeVar

Returned = TypeVar("Returned")
_SLICE_S = 0.05


class BoundedCalls:
    """Makes calls one at a time in a thread of its own; who waits for one can be interrupted.

    Once one has taken too long, no other is made. The thread, and a call that never returns, end with the process.
    """

    def __init__(self, name: str) -> None:
        self._waiting: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self.hang = False
        """True once a call has taken too long."""
        threading.Thread(target=self._make_calls, name=name, daemon=True).start()

    def make(
        self, function: Callable[[], Returned], limit_s: float, while_waiting: Callable[[], None] = lambda: None
    ) -> Returned:
        """Return what a call returns, or raise what it raises; TimeoutError if it takes longer than the limit.

        `while_waiting` is called at least every 100 ms; what it raises ends the waiting.
        """
        if self.hang:
            raise TimeoutError
        future: Future[Returned] = Future()
        self._waiting.put(lambda: _fulfil(future, function))
        for _ in range(math.ceil(limit_s / _SLICE_S)):
            if wait([future], _SLICE_S).done:
                return future.result()
            while_waiting()
        self.hang = True
        raise TimeoutError

    def end(self) -> None:
        """End the thread once the calls that are waiting have been made."""
        self._waiting.put(None)

    def _make_calls(self) -> None:
        while call := self._waiting.get():
            call()


def _fulfil(future: Future[Returned], function: Callable[[], Returned]) -> None:
    try:
        future.set_result(function())
    except BaseException as error:
        future.set_exception(error)
