"""What is still asked of a migration while somebody follows it: any thread asks, and the one that follows it answers.

Wishes are looked at with every poll, so that whoever asks touches neither the VM nor its monitor.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from vmferry.convergence.actions import Cancel, Tell
from vmferry.convergence.limits import Limits


@dataclass(frozen=True, kw_only=True)
class KeepLimits:
    """Keep these limits from now on, in place of those that were set before."""

    limits: Limits
    reason: str


@dataclass(eq=False)
class Wish:
    """One thing that is asked for."""

    what: Cancel | KeepLimits | Tell
    granted: bool | None = None
    """Whether it was done; None before anybody knows."""
    why_not: str = ""

    def grant(self) -> None:
        """Take note that it was done."""
        self.granted = True

    def refuse(self, why: str) -> None:
        """Take note that it is not done, and why."""
        self.why_not, self.granted = why, False


class Wishes:
    """All that is asked of one migration and was not looked at yet."""

    def __init__(self) -> None:
        self._asked: deque[Wish] = deque()
        """Appending and taking are one step for all threads."""

    def ask(self, wish: Wish) -> None:
        """Ask for one thing more."""
        self._asked.append(wish)

    def take(self) -> Iterator[Wish]:
        """Yield what is asked for, each once, in order."""
        while self._asked:
            yield self._asked.popleft()

    def refuse(self, why: str) -> None:
        """Refuse all that was asked for."""
        for wish in self.take():
            wish.refuse(why)
