"""How something that runs is asked to end.

Whoever wants an end sets a token: a signal, a deadline, a client, a server. Who runs looks at it at least every 100 ms,
and ends by itself; nothing is thrown at it from outside. There is no lock, so that a signal handler may set it.
"""

from dataclasses import dataclass

from vmferry.errors import CancelledError


@dataclass(frozen=True)
class _Wish:
    reason: str
    signal_number: int | None


class CancelToken:
    """Is set once, from any thread; of several who want an end the first one is named."""

    def __init__(self) -> None:
        self._wishes: list[_Wish] = []
        """Appending is one step for all threads, so the first one is the first one."""
        self._closed = False

    def set(self, reason: str, signal_number: int | None = None) -> None:
        """Ask for the end; `signal_number` is that of the signal that does. A closed token hears nobody."""
        if not self._wishes and not self._closed:
            self._wishes.append(_Wish(reason, signal_number))

    @property
    def is_set(self) -> bool:
        """True once somebody has asked for the end."""
        return bool(self._wishes)

    @property
    def signal_number(self) -> int | None:
        """The number of the signal that has asked for the end; None if none has."""
        return self._wishes[0].signal_number if self._wishes else None

    def check(self) -> None:
        """Raise CancelledError with the reason if somebody has asked for the end and the token is not closed."""
        if self._wishes and not self._closed:
            raise CancelledError(self._wishes[0].reason)

    def close(self) -> None:
        """Let nobody be heard any more, as what is left to do is bounded and has to be done. It stays set if it was."""
        self._closed = True
