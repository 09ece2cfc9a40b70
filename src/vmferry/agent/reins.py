"""Who holds the reins of a migration that is followed, and how others get them: by asking, from any thread.

The thread that follows it looks at what is asked for with every poll. Whoever asks waits until it is so, and is told
what became of it.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmferry.agent.rules import Rule
from vmferry.cancel import CancelToken
from vmferry.control.wishes import KeepLimits, Wish, Wishes
from vmferry.convergence.actions import Cancel, Tell


class Reins:
    """The reins of one migration."""

    def __init__(self, rule: Rule, why: str) -> None:
        self.rule = rule
        """What is done with it now."""
        self.why = why
        """Which rule that is, and who has asked for it, for people."""
        self.wishes = Wishes()
        self.is_over = False
        """True once nobody follows it any more."""
        self._changed = threading.Condition()
        self._token: CancelToken | None = None
        self._handed_over: tuple[Rule, str, Wish] | None = None
        self._other_limits: list[tuple[Rule, Wish]] = []

    def hand_over(self, rule: Rule, who: str) -> Wish:
        """Ask that another rule takes the place of the one that holds; granted once it holds."""
        reason = f"{who} asked to do something else with it: {', '.join(rule.orders())}"
        wish = Wish(Tell(reason=reason))
        with self._changed:
            if self._handed_over:
                self._handed_over[2].refuse(f"meanwhile {who} asked for something else")
            self._handed_over = rule, f"{who} asked for it", wish
            if self._token:
                self._token.set(reason)
        return wish

    def keep_limits(self, rule: Rule, who: str) -> Wish:
        """Ask that the limits of a rule, which is the same otherwise, are kept; granted once they are."""
        limits = rule.limits
        wish = Wish(KeepLimits(limits=limits, reason=f"{who} asked for other limits: {', '.join(rule.orders())}"))
        with self._changed:
            self._other_limits.append((rule, wish))
            self.wishes.ask(wish)
        return wish

    def cancel(self, who: str) -> Wish:
        """Ask that the migration is cancelled; granted once its VM was told so."""
        wish = Wish(Cancel(reason=f"{who} asked to cancel it"))
        self.wishes.ask(wish)
        return wish

    def wait_for(self, holds: Callable[[], bool], limit_s: float) -> bool:
        """Wait until something is so, which is looked at with every poll, or the end. Returns whether it is."""
        with self._changed:
            self._changed.wait_for(lambda: holds() or self.is_over, limit_s)
        return holds()

    @contextmanager
    def held(self, token: CancelToken) -> Iterator[None]:
        """Hold them; the token is set when somebody else is to."""
        with self._changed:
            self._token = token
            if self._handed_over:
                token.set(self._handed_over[1])
        try:
            yield
        finally:
            with self._changed:
                self._token = None

    def taken_over(self) -> bool:
        """Tell whether another rule holds from now on, as somebody has asked for."""
        with self._changed:
            if self._handed_over is None:
                return False
            self.rule, self.why, wish = self._handed_over
            self._handed_over = None
        self.wishes.ask(wish)
        return True

    def looked(self) -> None:
        """Take note that there was another poll."""
        with self._changed:
            for rule, wish in self._other_limits:
                if wish.granted:
                    self.rule = rule
            self._other_limits = [(rule, wish) for rule, wish in self._other_limits if wish.granted is None]
            self._changed.notify_all()

    def end(self, why: str) -> None:
        """Refuse what is still asked for, as it is followed no more."""
        self.wishes.refuse(why)
        with self._changed:
            if self._handed_over:
                self._handed_over[2].refuse(why)
            self.is_over = True
            self._changed.notify_all()
