"""What people are told when a migration enters a state that needs them, or in which nothing is as it was before."""

from collections.abc import Callable

from vmferry.control.asking.progress import Progress

_TOLD_POLLS = 10
"""After this many polls, a second, people are told who is waited for."""


RECOVERY = (
    "post-copy is paused, as its connection is lost: the guest stands still where it needs memory that is still here. "
    "Recover it: migrate-recover with a new uri at the destination, then migrate with that uri and resume=true here"
)
"""What to do about `postcopy-paused`, in which QEMU waits for ever."""
_RECOVERIES = {"postcopy-paused": RECOVERY, "postcopy-recover": "post-copy is being recovered, by who resumed it"}


class Phases:
    """Follows the states of one migration, and tells of each once."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._polls_waiting = 0
        self._in_postcopy = False
        self._told: set[str] = set()

    def observe(self, progress: Progress) -> None:
        """Look at one answer to `query-migrate`."""
        self._polls_waiting = self._polls_waiting + 1 if progress.status == "pre-switchover" else 0
        if self._polls_waiting == _TOLD_POLLS:
            self._tell("the guest is stopped and waits for migrate-continue, from who set pause-before-switchover")
        if progress.in_postcopy and not self._in_postcopy:
            self._in_postcopy = True
            self._tell(
                "post-copy has begun: the guest runs at the destination and fetches what it needs from here; "
                "it is not slowed, and cancelling would lose it"
            )
        if progress.status in _RECOVERIES and progress.status not in self._told:
            self._told.add(progress.status)
            self._tell(_RECOVERIES[progress.status])
