"""Whether a guest that nothing slows any more than now comes nearer to its end."""

import math

from vmferry.convergence.unslowed import HEADWAY

_TIMES = 4
"""A guest is lost once so many times what remained at the least was sent, and no less remains: so many passes. The
look-ahead takes two; here links and loads vary."""


class Headway:
    """Is told at each dirty sync what remains, and what was sent so far."""

    def __init__(self) -> None:
        self._least_bytes = math.inf
        self._sent_then_bytes = 0.0

    def is_lost(self, remaining_bytes: int, sent_bytes: float) -> bool:
        """Tell whether less will never remain, as far as anybody has seen."""
        if remaining_bytes < HEADWAY * self._least_bytes:
            self._least_bytes, self._sent_then_bytes = remaining_bytes, sent_bytes
        return sent_bytes - self._sent_then_bytes > _TIMES * self._least_bytes
