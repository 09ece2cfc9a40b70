"""What a VM has recorded of its latest outgoing migration, for those who ask its monitor; bounded."""

import threading
from collections import deque

import msgspec

from vmferry.migration.events import Ended, Event, Started
from vmferry.migration.journal import Entry
from vmferry.monitor.vm_port import RecordPart

MAX_EVENTS = 20_000
"""How many events are kept: half an hour of a busy migration, in about 6 MiB."""
MAX_PART_BYTES = 128 * 1024
"""How large one answer may be; a single line may be longer."""


class MigrationRecord:
    """A journal of numbered lines. The beginning of the migration is kept, after it the newest events.

    The migration's thread records, that of the monitor asks.
    """

    def __init__(self, max_events: int = MAX_EVENTS) -> None:
        self._lines: deque[str] = deque(maxlen=max_events)
        self._start: tuple[int, str] | None = None
        """Number and line of the event that began the migration."""
        self._next = 0
        """The number of the next event."""
        self._goes_on = False
        self._lock = threading.Lock()

    def record(self, time_ns: int, event: Event) -> None:
        """Keep one event, if it belongs to an outgoing migration."""
        began = isinstance(event, Started)
        if not (began or self._goes_on):
            return
        line = msgspec.json.encode(Entry(time_ns, event)).decode()
        with self._lock:
            if began:
                self._start = (self._next, line)
                self._lines.clear()
            else:
                self._lines.append(line)
            self._next += 1
            self._goes_on = not isinstance(event, Ended)

    def since(self, first: int | None) -> RecordPart:
        """Return lines from the event of that number on, or from the beginning of the migration."""
        with self._lock:
            if self._start is None or (first is not None and first >= self._next):
                return RecordPart(lines=[], next=self._next, dropped=0)
            start, line = self._start
            wanted = start if first is None else max(first, start)
            lines = [line] if wanted == start else []
            oldest = self._next - len(self._lines)
            number = max(wanted + len(lines), oldest)
            dropped = number - wanted - len(lines)
            size_bytes = sum(map(len, lines))
            while number < self._next and (not lines or size_bytes < MAX_PART_BYTES):
                lines.append(self._lines[number - oldest])
                size_bytes += len(lines[-1])
                number += 1
            return RecordPart(lines=lines, next=number, dropped=dropped)
