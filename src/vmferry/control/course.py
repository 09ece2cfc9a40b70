"""The time from the beginning of one migration to its end: it is followed, bounded, and called off."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from vmferry.cancel import CancelToken
from vmferry.client.monitor import Monitor
from vmferry.control.drive import (
    IN_POSTCOPY,
    POLL_INTERVAL_NS,
    Cancellation,
    Progress,
    Result,
    ask,
    cancel_migration,
    follow,
)
from vmferry.control.hand_over import HandOver
from vmferry.control.held import HeldDestination
from vmferry.control.limits import LimitKeeper, Limits
from vmferry.control.link import LinkKeeper
from vmferry.control.phases import RECOVERY, Phases
from vmferry.control.prospect import Prospect
from vmferry.control.recorder import Recorder
from vmferry.control.settings import Settings
from vmferry.control.steered import Steered
from vmferry.control.vm_record import VmRecord
from vmferry.errors import (
    CancelledError,
    CommandError,
    InterruptionError,
    MigrationError,
    MonitorError,
    PolicyError,
    VmferryError,
    VmLeftError,
)
from vmferry.migration.lost_work import LostWork
from vmferry.migration.ports import Clock

DESTINATION_KNOWS = "the reason is in the destination's stderr or log"
MIGRATION = "MIGRATION"
"""QEMU's event that tells a new state, with the capability `events`."""
MAYBE_TWO = "failed at the hand-over: the source runs on; look whether the destination runs too before anything else"
NEVER_TWO = "failed at the hand-over: the source runs on, and the destination was not let run"


@dataclass(frozen=True)
class Onlookers:
    """Who is told what."""

    watch: Callable[[Progress], None]
    tell: Callable[[str], None]
    recorder: Recorder | VmRecord
    lost: LostWork
    """Hears what is recorded."""


class Course:
    """One migration that was begun by us, or taken over."""

    def __init__(
        self,
        monitor: Monitor,
        clock: Clock,
        cancel: CancelToken,
        uri: str | None,
        limits: Limits,
        settings: Settings,
        steered: Steered | None,
        prospect: Prospect | None,
        hand_over: HandOver | None,
        held: HeldDestination | None,
        link: LinkKeeper,
        onlookers: Onlookers,
    ) -> None:
        """`uri` is None to take the migration that runs.

        `prospect` is None where nobody slows the guest but we, `hand_over` where it needs no bound of ours, and `held`
        where the destination lets the guest run by itself.
        """
        elapsed_ms = 0 if uri else ask(monitor).elapsed_ms or 0
        self.keeper = LimitKeeper(
            limits, monitor, clock, self._cancel_at_limit, settings, onlookers.lost, onlookers.tell, elapsed_ms
        )
        self.used_destination = False
        """True once the destination has accepted the migration."""
        self._monitor = monitor
        self._clock = clock
        self._token = cancel
        self._uri = uri
        self._steered = steered
        self._hand_over = hand_over
        self._held = held
        self._link = link
        self._onlookers = onlookers
        self._prospect = prospect
        self._cancellation = Cancellation(clock)
        self._why_cancelled: str | None = None
        self._policy_broken = False
        self._is_only_here = False
        """True if the destination is known not to have the guest."""
        self._left_to_send = True
        """True if some of the guest's memory was still to be sent at the last poll."""
        self._ours = False
        """True if it is for us to cancel."""
        self._phases = Phases(onlookers.tell)

    def run(self) -> Result:
        """Begin the migration, or take the one that runs, and follow it."""
        try:
            result = self._follow(self._begin)
        except BaseException as error:
            if self._answers_again(error):
                return self._with_reason(self._follow(lambda: None))
            if isinstance(error, MonitorError) and not isinstance(error, CommandError):
                raise self._left_alone(error) from error
            if self._ours and not isinstance(error, (MigrationError, InterruptionError)):
                self._call_off()
            raise
        return self._with_reason(result)

    def _follow(self, begin: Callable[[], None]) -> Result:
        result = follow(
            self._monitor,
            self._clock,
            self._observe,
            self._token,
            cancelled=self._cancel_as_asked,
            pause=self._pause,
            begin=begin,
            cancellation=self._cancellation,
            ended=self._ended,
        )
        return self._held.counted(result) if self._held else result

    def _pause(self) -> None:
        wait_ns = self._held.wait_ns if self._held else self._clock.sleep_ns
        if self._steered:
            self._steered.pause(wait_ns)
        else:
            wait_ns(POLL_INTERVAL_NS)

    def _ended(self, progress: Progress) -> None:
        if self._held:
            self._held.ended(progress)

    def _answers_again(self, error: BaseException) -> bool:
        """Break the connection of a QEMU that answers nothing, as it waits for the other side with its lock held.

        It sends what is left of the guest like that, so the destination does not have it. Returns whether that was it.
        """
        silent = isinstance(error, MonitorError) and not isinstance(error, (CommandError, VmLeftError))
        if not (silent and self._hand_over and self._left_to_send and self._why_cancelled is None):
            return False
        self._monitor.hurry()
        if self._steered:
            self._steered.stop()
        try:
            self._monitor.execute_out_of_band("yank", {"instances": [{"type": "migration"}]})
        except MonitorError:
            return False
        self._why_cancelled = f"{error}, as it waited for the destination; its connection was broken, it runs on here"
        self._is_only_here = True
        self._cancellation.begin()
        return True

    def _with_reason(self, result: Result) -> Result:
        """Add what QEMU does not know of why it ended so."""
        self._take_events()
        if result.completed:
            return result
        last = result.last
        reasons = [self._why_cancelled or last.error, self._what_is_left()]
        if last.status == "failed" and self.used_destination and self._hand_over and not self._why_cancelled:
            reasons.append(DESTINATION_KNOWS)
        error = "; ".join(filter(None, reasons)) or None
        return replace(result, last=replace(last, error=error), policy_broken=self._policy_broken)

    def _what_is_left(self) -> str | None:
        """Say what is true of a guest that was stopped for its hand-over, which then failed."""
        if self._is_only_here or not (self._hand_over and self._hand_over.has_begun):
            return None
        return NEVER_TWO if self._held else MAYBE_TWO

    def _take_events(self) -> bool:
        """Note what QEMU has said by itself, which no poll may have seen. Returns whether the guest was stopped."""
        events = self._monitor.take_events()
        self.used_destination |= any(
            event.data.get("status") == "active" for event in events if event.name == MIGRATION
        )
        stopped = any(event.name == "STOP" for event in events)
        if self._hand_over and stopped:
            self._hand_over.has_begun = self.used_destination = True
        return stopped

    def _begin(self) -> None:
        if self._uri is not None:
            self._ours = True  # also if an interruption comes before the answer
            try:
                self._monitor.execute("migrate", {"uri": self._uri})
            except CommandError:
                self._ours = False
                raise

    def _observe(self, progress: Progress) -> Progress:
        self.used_destination = self.used_destination or progress.status == "active"
        self._left_to_send = progress.status in ("setup", "active") and progress.remaining_bytes != 0
        if self._steered and progress.in_postcopy:
            self._steered.stop()
        if progress.status == "postcopy-paused":
            raise MigrationError(RECOVERY)
        self._phases.observe(progress)
        if self._held:
            self._held.observe(progress)
        seen = self._steered.complete(progress) if self._steered else progress
        self._onlookers.recorder.poll(seen, stopped=self._take_events())
        self._onlookers.watch(seen)
        self.keeper.observe()
        if self._prospect:
            self._prospect.observe(seen)
        if self._hand_over and self._why_cancelled is None and (why := self._hand_over.observe(progress)):
            self._why_cancelled = f"{why}; it runs on here. {DESTINATION_KNOWS.capitalize()}"
            self._is_only_here = self._hand_over.is_certain
            self._cancel()
        if (why := self._link.observe(progress, self._clock.now_ns())) and self._why_cancelled is None:
            self._why_cancelled = why
            self._cancel()
        return self._steer(self._steered, progress) if self._steered else seen

    def _steer(self, steered: Steered, progress: Progress) -> Progress:
        """Steer; a broken policy ends that, and a migration of ours with it. Raises PolicyError for somebody else's."""
        try:
            return steered.observe(progress)
        except PolicyError as error:
            if not self._ours:
                raise
            self._why_cancelled = self._why_cancelled or str(error)
            self._policy_broken = True
            self._onlookers.tell(str(error))
            self._cancel()
            return steered.complete(progress)

    def _cancel(self) -> bool:
        """Let the guest run before all else, and cancel unless it is in post-copy. Returns whether it was cancelled."""
        if self._steered:
            self._steered.stop()
        cancelled = cancel_migration(self._monitor)
        if cancelled:
            self._cancellation.begin()
        return cancelled

    def _cancel_at_limit(self) -> None:
        if not self._cancel():
            self._onlookers.tell(IN_POSTCOPY)

    def _cancel_as_asked(self) -> bool:
        """Cancel what is ours. Raises CancelledError or InterruptionError if it is not, or is in post-copy."""
        self._monitor.hurry()
        if not self._ours:
            raise CancelledError("let go of the migration, which goes on by itself")
        if self._cancel():
            return True
        number = self._token.signal_number
        raise CancelledError(IN_POSTCOPY) if number is None else InterruptionError(IN_POSTCOPY, number)

    def _left_alone(self, error: MonitorError) -> MonitorError:
        """Return an error that says what is true once nobody can be asked any more."""
        if self._steered and self._steered.stop():
            return MonitorError(f"{error}; nothing slows the guest any more, and its migration may go on by itself")
        return MonitorError(f"{error}; its migration may go on by itself")

    def _call_off(self) -> None:
        """Cancel, after an error that leaves nobody to look after the migration, and wait until that is done."""
        with suppress(VmferryError):
            self._monitor.hurry()
            self._token.close()
            if self._cancel():
                follow(self._monitor, self._clock, lambda seen: seen, self._token, cancellation=self._cancellation)
