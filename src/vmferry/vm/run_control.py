"""Who may run the guest: decided here, for the monitor and for the migrations that take a guest away or bring it.

The run state is not stored but derived from the guest and its migration, so that they cannot disagree.
"""

import threading
from typing import Protocol

from vmferry.errors import UsageError
from vmferry.migration.ports import Guest
from vmferry.migration.status import MigrationStatus
from vmferry.monitor.vm_port import RunState
from vmferry.vm.event_feed import EventFeed


class MortalGuest(Guest, Protocol):
    """A guest that can crash (`KvmGuest`)."""

    @property
    def crash(self) -> str | None:
        """Why it cannot run on; None as long as it can."""
        ...

    @property
    def panicked(self) -> bool:
        """Whether the crash was the guest's own doing."""
        ...


class Departure(Protocol):
    """An outgoing migration, as far as it decides whose the guest is (`MigrationSource`)."""

    @property
    def status(self) -> MigrationStatus:
        """How far the migration is."""
        ...

    def keep_paused(self) -> None:
        """Leave the guest, which stands still for its hand-over, paused whoever gets it."""
        ...

    def take_back(self) -> None:
        """Take a guest back whose hand-over is in doubt."""
        ...


class RunControl:
    """Runs and pauses one guest (implements the monitor's `MonitoredRunControl`).

    `awaits_guest` says that the guest is to come from elsewhere, `start_paused` that it waits for `cont` then, even if
    it runs at the source.
    """

    def __init__(self, guest: MortalGuest, events: EventFeed, *, awaits_guest: bool, start_paused: bool) -> None:
        self.awaits_guest = awaits_guest
        self._guest = guest
        self._events = events
        self._departure: Departure | None = None
        self._handing_over = False
        self._runs_on_arrival = False if start_paused else None
        """Whether the guest, which is yet to come, is to run then; None: if it runs at the source."""
        self._lock = threading.Lock()
        """Orders `stop` and `cont` against the beginning of a hand-over."""

    def state(self) -> RunState:
        """Return the state in QEMU's words."""
        if self._guest.crash:
            return RunState.GUEST_PANICKED if self._guest.panicked else RunState.INTERNAL_ERROR
        if self.awaits_guest:
            return RunState.INMIGRATE
        if self._leaving is MigrationStatus.COMPLETED:
            return RunState.POSTMIGRATE
        if self._leaving is MigrationStatus.IN_DOUBT:
            return RunState.IN_DOUBT
        if self._handing_over:
            return RunState.FINISH_MIGRATE
        return RunState.RUNNING if self._guest.running else RunState.PAUSED

    def stop(self) -> None:
        """Pause the guest, also one that is yet to come; harmless if it is paused."""
        with self._lock:
            self._runs_on_arrival = False
            if self._handing_over and self._departure:
                self._departure.keep_paused()
            else:
                self._guest.pause()
        self._events.tell_whether_it_runs()

    def cont(self, *, force: bool = False) -> None:
        """Let the guest run, or if it is yet to come, when it is here. Raises UsageError if it is not ours to run.

        With `force`, a guest whose hand-over is in doubt is ours from now on.
        """
        if force and self._departure and self._leaving is MigrationStatus.IN_DOUBT:
            self._departure.take_back()
        with self._lock:
            if self.awaits_guest:
                self._runs_on_arrival = True
                return
            refusal = _REFUSALS_TO_RUN.get(self.state())
            if refusal:
                raise UsageError(refusal)
            self._guest.resume()
        self._events.tell_whether_it_runs()

    # Leaving

    @property
    def leaving(self) -> bool:
        """True while a migration goes on that takes the guest away, or may have."""
        return self._leaving is not None and self._leaving.is_running

    def check_may_leave(self) -> None:
        """Raise UsageError if the guest is not here, or not ours to send away."""
        if self.awaits_guest:
            raise UsageError("Guest is waiting for an incoming migration")
        if self.leaving:
            raise UsageError("There's a migration process in progress")
        if self._leaving is MigrationStatus.COMPLETED:
            raise UsageError("Can't migrate the vm that was paused due to previous migration")
        if self._leaving is MigrationStatus.IN_DOUBT:
            raise UsageError(_IN_DOUBT)

    def leave_by(self, departure: Departure) -> None:
        """From now on this migration decides whose the guest is."""
        self._departure = departure

    def note_hand_over(self, *, begun: bool) -> None:
        """Take note that a hand-over has begun, for which the guest stands still, or that it has ended."""
        with self._lock:
            self._handing_over = begun

    @property
    def _leaving(self) -> MigrationStatus | None:
        return self._departure.status if self._departure else None

    # Arriving

    @property
    def may_run_on_arrival(self) -> bool:
        """Whether a guest that runs at its source may run here when it comes."""
        return self._runs_on_arrival is not False

    def take_in(self) -> None:
        """The guest is here and ours: let it run or stand still as was said meanwhile. Raises GuestError."""
        with self._lock:
            self.awaits_guest = False
            if self._runs_on_arrival:
                self._guest.resume()
            elif self._runs_on_arrival is False:  # said a moment too late for `may_run_on_arrival`
                self._guest.pause()


_IN_DOUBT = (
    "the hand-over is in doubt: the guest may run at the destination. Look there with query-status; only if it is "
    "neither running nor paused there, take it back with cont force=true (HMP: cont -f)"
)

_REFUSALS_TO_RUN = {
    RunState.IN_DOUBT: _IN_DOUBT,
    RunState.FINISH_MIGRATE: "Migration is not finalized yet",
    RunState.POSTMIGRATE: "the guest was handed over and belongs to the destination now",
    RunState.GUEST_PANICKED: "the guest has crashed and cannot run on",
    RunState.INTERNAL_ERROR: "the guest cannot run on after an error of KVM's",
}
