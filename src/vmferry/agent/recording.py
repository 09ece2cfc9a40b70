"""What is known so far of one migration: its follower adds to it, and the memory's thread takes it away to be kept."""

import threading
from dataclasses import dataclass, field

import msgspec

from vmferry.agent.failures import Failure, failure_of
from vmferry.agent.rules import Mode, Vm
from vmferry.control.asking.result import Result
from vmferry.convergence.limit_watch import Verdict
from vmferry.convergence.written import Written
from vmferry.migration.events import Event, StatusChanged
from vmferry.migration.journal import CourseJournal, Entry, split_migrations
from vmferry.migration.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a migration when it is noticed."""

    vm: Vm
    address: str
    """Of the source's monitor."""
    mode: Mode
    rule: str
    """Which rule holds, for people."""
    variant: str
    """What decides, or would; empty if nothing does."""
    began_ms: int
    """Milliseconds since the Unix epoch."""


class Foretold(msgspec.Struct, frozen=True, kw_only=True):
    """The first forecast that said within which bounds a migration would end."""

    elapsed_ms: int
    """How long the migration had run then."""
    least_left_ms: int
    """Time still needed if the guest dirtied nothing more."""
    median_left_ms: int | None = None
    """Time within which it would be over as likely as not; None in what older agents have kept."""
    most_left_ms: int
    """Time within which nine of ten such migrations would be over."""

    def left_ms(self, outcome: Outcome | None) -> int | None:
        """Return how long it really took from then on; None if it did not complete, or nobody knows."""
        if not (outcome and outcome.completed and outcome.total_time_ms):
            return None
        return outcome.total_time_ms - self.elapsed_ms


@dataclass(frozen=True, kw_only=True)
class Close:
    """Why nobody follows a migration any more."""

    ended_ms: int | None
    """When it ended; None if it goes on, or nobody saw its end."""
    outcome: Outcome | None = None
    """None if nobody saw its end, so that it follows from what the journal has."""
    verdicts: tuple[Verdict, ...] = ()
    arrival: str | None = None
    failure: Failure | None = Failure.UNSEEN
    """Why it did not complete; None if it did."""
    remark: str = ""
    """What went wrong with following it."""


@dataclass
class Recording:
    """What is known of one migration so far; it is the journal in which its follower records."""

    facts: Facts
    status: str = "setup"
    """The last that was seen."""
    foretold: Foretold | None = None
    """Set once, when there is one."""
    remark: str = ""
    """What went wrong with following it so far."""
    not_steered: bool = False
    """True if it was to be steered, and that could not be."""
    close: Close | None = None
    """Set once, when nobody follows the migration any more."""
    course: CourseJournal = field(default_factory=CourseJournal)
    _new: list[Entry] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _is_begun: threading.Event = field(default_factory=threading.Event)
    _learnt: tuple[Written, ...] = ()

    def record(self, time_ns: int, event: Event) -> None:
        """Append one event."""
        if isinstance(event, StatusChanged):
            self.status = event.new.value
        self.course.record(time_ns, event)
        with self._lock:
            self._new.append(Entry(time_ns, event))

    def take(self) -> list[Entry]:
        """Return the events since this was called last."""
        with self._lock:
            taken, self._new = self._new, []
        return taken

    def begun(self, learnt: tuple[Written, ...]) -> None:
        """Take note that it is kept from now on, and of what its guest was found to write if it was followed before."""
        self._learnt = learnt
        self._is_begun.set()

    def learnt(self, wait_s: float) -> tuple[Written, ...]:
        """Return how the guest was found to write before; nothing if nobody remembers that so soon."""
        self._is_begun.wait(wait_s)
        return self._learnt

    def ended(self, result: Result, now_ms: int) -> None:
        """Take note of the end."""
        self.status = result.last.status
        arrival = result.arrival.state.value if result.arrival else None
        self.close = Close(
            ended_ms=now_ms,
            outcome=outcome_of(self.course.entries),
            verdicts=result.verdicts,
            arrival=arrival,
            failure=failure_of(result),
            remark=self.remark,
        )

    def left(self, remark: str) -> None:
        """Take note that it is followed no more, though nobody saw its end."""
        self.close = Close(ended_ms=None, remark="; ".join(filter(None, (self.remark, remark))))


def outcome_of(entries: list[Entry]) -> Outcome | None:
    """Return the figures of the newest migration in a journal; None if none began.

    Whoever loses sight of a migration and finds it again begins a second time.
    """
    migrations = list(split_migrations(entries))
    return Outcome.of(migrations[-1]) if migrations else None
