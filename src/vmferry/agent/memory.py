"""Keeps what recordings hold, twice per second and in a thread of its own, so that no database holds up a migration.

A database that refuses is tried again for as long as it takes; what comes meanwhile waits, up to a bound.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from vmferry.agent import store
from vmferry.agent.database import reason_of, telling
from vmferry.agent.learnt import learnt_from
from vmferry.agent.pieces import Pieces
from vmferry.agent.recording import Close, Facts, Foretold, Recording
from vmferry.convergence.written import Written
from vmferry.errors import UsageError
from vmferry.units import MS_PER_S, NS_PER_MS

INTERVAL_S = 0.5
_CLOSE_S = 10.0
_FORGET_S = 3600.0
_MS_PER_DAY = 86_400_000
_State = tuple[str, Foretold | None, Facts]


class Memory:
    """Remembers the migrations of one host; a context manager that keeps all there is at its end."""

    def __init__(self, engine: Engine, host: str, keep_days: int, tell: Callable[[str], object]) -> None:
        """Close what an agent before this one has left open. Raises HostError."""
        self._engine = engine
        self._host = host
        self._keep_days = keep_days
        self._tell = tell
        self.change_count = 0
        """How often the list of migrations has changed in the database: one began, ended, or is done otherwise."""
        self._lock = threading.Lock()
        self._slots: list[_Slot] = []
        self._forget_at_s = self._start_s = time.monotonic()
        self._start_ms = time.time_ns() // NS_PER_MS
        self._refuses = False
        self._closing = threading.Event()
        with telling(engine), engine.begin() as connection:
            left = store.close_left(connection, host)
        if left:
            tell(f"{left} migrations were being followed when the agent before this one ended")
        self._thread = threading.Thread(target=self._run, name="memory", daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._thread.join(_CLOSE_S)
        if self._slots:
            self._tell(f"{len(self._slots)} migrations are not remembered to their end, as the database refuses")
        self._engine.dispose()

    def begin(self, facts: Facts) -> Recording:
        """Return what is to be filled for a migration that begins, or is found again."""
        recording = Recording(facts)
        with self._lock:
            self._slots.append(_Slot(recording))
        return recording

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL_S):
            self.keep()
        self.keep()  # what came since

    def keep(self) -> None:
        """Keep all that is new."""
        with self._lock:
            slots = list(self._slots)
        for slot in slots:
            slot.collect()
        try:
            with self._engine.begin() as connection:
                changed = [slot.save(connection, self._host) for slot in slots]
                self._forget(connection)
        except SQLAlchemyError as error:
            self._note(error)
            return
        self._note(None)
        self.change_count += any(changed)
        done = [slot for slot in slots if slot.saved()]
        with self._lock:
            self._slots = [slot for slot in self._slots if slot not in done]

    def _forget(self, connection: Connection) -> None:
        if time.monotonic() >= self._forget_at_s:
            store.forget(connection, self._host, self._now_ms() - self._keep_days * _MS_PER_DAY)
            self._forget_at_s = time.monotonic() + _FORGET_S

    def _now_ms(self) -> int:
        """Return the time. A clock that is set wrong later has nothing forgotten."""
        return self._start_ms + round((time.monotonic() - self._start_s) * MS_PER_S)

    def _note(self, error: SQLAlchemyError | None) -> None:
        """Tell when the database begins to refuse, and when it takes again what it is given."""
        if error and not self._refuses:
            self._tell(f"cannot remember migrations: {reason_of(error)}; that is tried again every {INTERVAL_S:g} s")
        elif self._refuses and not error:
            self._tell("migrations are remembered again")
        self._refuses = error is not None


class _Slot:
    """How much of one recording is kept."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._pieces = Pieces()
        self._close: Close | None = None
        self._state: _State = ("setup", None, recording.facts)
        self._place: tuple[int, int, int] | None = None
        """Number of the migration, part of its journal, and number of the next piece."""
        self._saving: tuple[tuple[int, int, int], _State, int] | None = None
        """Place, state and bytes as they will be once the transaction is through."""

    def collect(self) -> None:
        """Take what is new; what closes the recording comes after all else of it."""
        self._close = self._recording.close
        self._pieces.add(self._recording.take())

    def save(self, connection: Connection, host: str) -> bool:
        """Write what is new. Returns whether that is more than a piece of the journal."""
        is_first = self._place is None
        migration_id, part, number = self._place or self._begin(connection, host)
        state = self._recording.status, self._recording.foretold, self._recording.facts
        if data := self._pieces.unkept():
            store.add_piece(connection, migration_id, part, number, data)
        if state != self._state:
            store.note_state(connection, migration_id, *state)
        if self._close:
            store.note_close(connection, migration_id, self._close)
        self._saving = (migration_id, part, number + bool(data)), state, len(data)
        return is_first or state != self._state or self._close is not None

    def _begin(self, connection: Connection, host: str) -> tuple[int, int, int]:
        migration_id, part = store.take_up(connection, host, self._recording.facts)
        learnt: tuple[Written, ...] = ()
        if part:
            with suppress(UsageError):  # what cannot be read teaches nothing
                learnt = learnt_from(store.journal_of(connection, migration_id))
        self._recording.begun(learnt)
        return migration_id, part, 0

    def saved(self) -> bool:
        """Take note that all that was written is kept. Returns whether there is nothing more to come."""
        assert self._saving
        self._place, self._state, size_bytes = self._saving
        self._pieces.kept(size_bytes)
        return self._close is not None
