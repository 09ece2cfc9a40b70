"""Copies the record that a VM of ours keeps of its own migration: what it saw and decided, as it happened."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from vmferry.bounds import one_line
from vmferry.client.monitor import Monitor
from vmferry.control.asking.driven_vm import DrivenVm, own_variant
from vmferry.control.asking.guest_memory import memory_bytes
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.recorder import Evaluation, Recorder, acted, ended
from vmferry.convergence.actions import Action
from vmferry.convergence.limits import NO_LIMITS, Limits
from vmferry.convergence.policies.registry import find_policy
from vmferry.convergence.variants import POLICY
from vmferry.errors import MonitorError, UsageError
from vmferry.migration.events import Ended, Event, Lost, Ordered, RecordedBy, Shadowed, Started
from vmferry.migration.journal import MAX_ENTRIES, Entry, decode_entry
from vmferry.migration.ports import Journal
from vmferry.settings.parameters import PARAMETERS

COMMAND = "x-query-migrate-journal"
_NEVER = 1 << 62
"""No event has this number."""
_MAX_PARTS = 1000
"""How many answers are asked for at a time."""
_MAX_NAME_CHARACTERS = 200


class VmRecord:
    """Has the methods of `Recorder`. Where the VM's record breaks off, what is told of the end is what was seen."""

    def __init__(self, monitor: Monitor, seen: Recorder, journal: Journal, *, attached: bool) -> None:
        """`attached` if the migration runs already. `seen` records what is left if the VM tells nothing."""
        self._monitor = monitor
        self._seen = seen
        self._journal = journal
        self._first: int | None = None if attached else monitor.execute(COMMAND, {"first": _NEVER})["next"]
        self._facts: dict[str, Any] = {}
        self._last: Entry | None = None
        self._count = 0
        self._readable = True

    def start(self, **facts: Any) -> None:
        """Note what is known of the migration in case that the VM tells nothing."""
        self._facts = facts

    def poll(self, progress: Progress, stopped_ns: int | None = None) -> None:
        """Copy what is new."""
        for entry in self._new_entries():
            self._journal.record(entry.time_ns, entry.event)
            begins, self._last = self._last is None, entry
            if begins and (ordered := self._facts.get("ordered")):
                self._add(ordered)

    def evaluated(self, evaluation: Evaluation) -> None:
        """Nothing is decided on the throttle from outside where the VM decides by itself."""

    def acted(self, action: Action) -> None:
        """Add what was done from outside to what the VM has recorded so far, at the time of that."""
        self._add(acted(action))

    def shadowed(self, event: Shadowed) -> None:
        """Add likewise what somebody who only looks on would have done."""
        self._add(event)

    def end(self, result: Result) -> None:
        """Copy the rest. If it cannot be had any more, record the end as it was seen."""
        with suppress(MonitorError):
            self.poll(result.last)
        if self._last is None:
            self._seen.start(**self._facts)
            self._seen.end(result)
        elif not isinstance(self._last.event, Ended):
            self._journal.record(self._last.time_ns, ended(result))

    def _add(self, event: Event) -> None:
        if self._last:
            self._journal.record(self._last.time_ns, event)

    def _new_entries(self) -> Iterator[Entry]:
        """Yield what was not copied yet of the one migration that is followed."""
        for _ in range(_MAX_PARTS):
            if not self._readable or (self._last and isinstance(self._last.event, Ended)):
                return
            part = self._monitor.execute(COMMAND, {} if self._first is None else {"first": self._first})
            lines, self._first = part["lines"], part["next"]
            yield from self._entries(lines, part["dropped"])
            if not lines:
                return

    def _entries(self, lines: list[str], dropped: int) -> Iterator[Entry]:
        """Yield what the lines say, and where some are missing, how many; no more once one is no entry.

        The first has to begin a migration.
        """
        for line in lines:
            try:
                entry = decode_entry(line.encode(errors="surrogatepass"), "a line of the VM's record")
            except UsageError:
                entry = None
            self._count += 1
            begins = self._count > 1 or (entry is not None and isinstance(entry.event, Started))
            if entry is None or not begins or self._count > MAX_ENTRIES:
                self._readable = False
                return
            if dropped and not isinstance(entry.event, Started):
                yield Entry(entry.time_ns, Lost(count=dropped))
                dropped = 0
            yield entry


def open_recorder(
    monitor: Monitor, driven: DrivenVm, journal: Journal, now_ns: Callable[[], int], *, attached: bool
) -> Recorder | VmRecord:
    """Return what records a migration: the VM's own record where it has one, else what is seen from outside."""
    seen = Recorder(journal, now_ns)
    if not driven.schema.has_command(COMMAND):
        return seen
    return VmRecord(monitor, seen, journal, attached=attached)


def start_recording(
    recorder: Recorder | VmRecord,
    monitor: Monitor,
    driven: DrivenVm,
    obeyed: Mapping[str, object],
    limits: Limits = NO_LIMITS,
) -> dict[str, Any]:
    """Record the beginning, with the VM's parameters and those that we obey instead of it, and what is wanted of it, if
    anything is known of that. Returns the former."""
    parameters = dict(monitor.execute("query-migrate-parameters"))
    capabilities = monitor.execute("query-migrate-capabilities")
    effective = {**own_variant(monitor.execute("query-version")).settings, **parameters, **obeyed}
    ordered = Ordered.of(_name(monitor, driven), limits)
    recorder.start(
        total_bytes=memory_bytes(monitor),
        vcpu_count=len(monitor.execute("query-cpus-fast")),
        auto_converge=bool(obeyed) or {"capability": "auto-converge", "state": True} in capabilities,
        parameters={name: value for name, value in effective.items() if name in PARAMETERS},
        recorded_by=RecordedBy.DRIVER if obeyed else RecordedBy.OBSERVER,
        policy_digest=find_policy(str(obeyed[POLICY])).digest if obeyed else None,
        ordered=ordered if ordered != Ordered() else None,
    )
    return parameters


def _name(monitor: Monitor, driven: DrivenVm) -> str | None:
    """Return what the VM is called, if it is called anything."""
    if not driven.schema.has_command("query-name"):
        return None
    return one_line(monitor.execute("query-name").get("name", "")[:_MAX_NAME_CHARACTERS]) or None
