"""Waiting for a condition, with a deadline."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0) -> None:
    """Return when the condition holds, which is looked at half of the time at most. Raises AssertionError if it does
    not in time."""
    start_s = now_s = time.monotonic()
    while not condition():
        looked_s, now_s = time.monotonic() - now_s, time.monotonic()
        assert now_s < start_s + timeout_s, "the condition did not come to hold"
        time.sleep(max(0.005, looked_s))
        now_s = time.monotonic()
