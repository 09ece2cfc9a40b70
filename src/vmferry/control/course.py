"""The time from the beginning of one migration to its end: it is followed, bounded, and called off."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from vmferry.control.arriving.hand_over import HandOver
from vmferry.control.arriving.held import HeldDestination
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result
from vmferry.control.body import DriverBody
from vmferry.control.drive import IN_POSTCOPY, cancel_migration
from vmferry.control.ending import DESTINATION_KNOWS, Ending
from vmferry.control.following import Cancellation, Follower, follow
from vmferry.control.link import LinkKeeper
from vmferry.control.load_meter import LoadMeter
from vmferry.control.ports import Ports
from vmferry.control.recorder import Recorder
from vmferry.control.telling.own_iterations import OwnIterations
from vmferry.control.telling.phases import RECOVERY, Phases
from vmferry.control.undoing.way_in import vm_process
from vmferry.control.vm_record import VmRecord
from vmferry.control.wishes import KeepLimits, Wish, Wishes
from vmferry.convergence.actions import Cancel, Tell
from vmferry.convergence.limits import Limits
from vmferry.errors import (
    CancelledError,
    CommandError,
    InterruptionError,
    MigrationError,
    MonitorError,
    PolicyError,
    UsageError,
    VmferryError,
    VmLeftError,
)
from vmferry.migration.ports import Clock
from vmferry.units import NS_PER_S

_ENDING_NS = 2 * NS_PER_S
"""How long a VM that answers no more may take to end."""


@dataclass(frozen=True)
class Crew:
    """Who looks after one migration, poll by poll."""

    body: DriverBody
    link: LinkKeeper
    recorder: Recorder | VmRecord
    watch: Callable[[Progress], None]
    """Shows it to people."""
    load: LoadMeter
    """Looks for what bounds the speed."""
    wishes: Wishes
    """What is asked of the migration while it runs."""
    keep: Callable[[Limits], None]
    """Has other limits kept from now on. Raises UsageError and MigrationError if that cannot be."""
    own_iterations: OwnIterations | None = None
    """Where the VM slows its guest itself."""
    hand_over: HandOver | None = None
    """Where the hand-over needs a bound of ours."""
    held: HeldDestination | None = None
    """Where the destination does not let the guest run by itself."""


class Course(Follower):
    """One migration that was begun by us, or taken over."""

    def __init__(self, ports: Ports, uri: str | None, crew: Crew) -> None:
        """`uri` is None to take the migration that runs."""
        self.ending = Ending(crew.hand_over, is_held=crew.held is not None)
        self._ports = ports
        self._monitor = ports.monitor
        self._uri = uri
        """Where to; None once it has begun."""
        self._crew = crew
        self._cancellation = Cancellation(ports.clock)
        self._ours = False
        """True if it is for us to cancel."""
        self._phases = Phases(self._tell)
        self._process = vm_process(ports.monitor)

    def _tell(self, what: str) -> None:
        self._ports.tell(what)
        self._crew.recorder.acted(Tell(reason=what))

    def run(self) -> Result:
        """Begin the migration, or take the one that runs, and follow it."""
        try:
            result = self._follow()
        except BaseException as error:
            if self._answers_again(error):
                return self._with_reasons(self._follow())
            if isinstance(error, MonitorError) and not isinstance(error, CommandError):
                raise self._left_alone(error) from error
            if self._ours and not isinstance(error, (MigrationError, InterruptionError)):
                self._call_off()
            raise
        return self._with_reasons(result)

    def _follow(self) -> Result:
        result = follow(self._monitor, self._ports.clock, self._ports.cancel, self, self._cancellation)
        return self._crew.held.counted(result) if self._crew.held else result

    def _with_reasons(self, result: Result) -> Result:
        self._hear()
        return self.ending.of(result)

    def _hear(self) -> int | None:
        """Hear what QEMU has said by itself, and return when the guest was stopped, if it was."""
        return self.ending.hear(self._monitor.take_events(), self._ports.clock.now_ns())

    def begin(self) -> None:
        """Begin the migration, unless it runs."""
        uri, self._uri = self._uri, None
        if uri is not None:
            self._ours = True  # also if an interruption comes before the answer
            try:
                self._monitor.execute("migrate", {"uri": uri})
            except CommandError as error:
                self._ours = False
                raise CommandError(f"the VM does not migrate to '{uri}': {error}", error.error_class) from error

    def pause(self, clock: Clock) -> None:
        """Wait until the next poll, or until the destination has something to tell."""
        self._crew.body.pause(self._crew.held.wait_ns if self._crew.held else clock.sleep_ns)

    def ended(self, progress: Progress) -> None:
        """Let a destination that is held run, or not."""
        if self._crew.held:
            self._crew.held.ended(progress)

    def _answers_again(self, error: BaseException) -> bool:
        """Break the connection of a QEMU that answers nothing, as it waits for the other side with its lock held.

        It sends what is left of the guest like that, so the destination does not have it. Returns whether that was it.
        """
        silent = isinstance(error, MonitorError) and not isinstance(error, (CommandError, VmLeftError))
        if not (silent and self._crew.hand_over and self.ending.left_to_send and self.ending.why_cancelled is None):
            return False
        self._monitor.hurry()
        self._crew.body.stop()
        try:
            self._monitor.execute_out_of_band("yank", {"instances": [{"type": "migration"}]})
        except MonitorError:
            return False
        why = f"{error}, as it waited for the destination; its connection was broken, it runs on here"
        self.ending.why_cancelled = why
        self.ending.is_only_here = self.ending.is_cancelled_by_us = True
        self._cancellation.begin()
        return True

    def observe(self, progress: Progress) -> Progress:
        """Record a poll, show it, and do what the brain and the bounds ask for."""
        crew = self._crew
        self.ending.observe(progress)
        if progress.in_postcopy:
            crew.body.stop()
        if progress.status == "postcopy-paused":
            raise MigrationError(RECOVERY)
        self._phases.observe(progress)
        if crew.held:
            crew.held.observe(progress)
        seen = crew.body.complete(progress)
        crew.recorder.poll(seen, self._hear())
        crew.watch(seen)
        crew.load.look(seen)
        if crew.own_iterations and (hopeless := crew.own_iterations.observe(seen)):
            self._ports.tell(hopeless)
        for wish in crew.wishes.take():
            self._heed(wish)
        self._bound_hand_over(progress)
        self._give_up(crew.link.observe(seen, self._ports.clock.now_ns()))
        self._give_up(self._brains_wish(progress))
        return crew.body.complete(progress)

    def _heed(self, wish: Wish) -> None:
        """Do what is asked for, and record who has asked."""
        match wish.what:
            case Cancel(reason=reason):
                self._give_up(reason)
                if self.ending.why_cancelled is None:
                    wish.refuse(IN_POSTCOPY)
                    return
                self._crew.recorder.acted(wish.what)
            case KeepLimits(limits=limits, reason=reason):
                try:
                    self._crew.keep(limits)
                except (UsageError, MigrationError) as error:
                    wish.refuse(str(error))
                    return
                self._crew.recorder.acted(Tell(reason=reason))
            case Tell():
                self._crew.recorder.acted(wish.what)
        self._ports.tell(wish.what.reason)
        wish.grant()

    def _bound_hand_over(self, progress: Progress) -> None:
        hand_over = self._crew.hand_over
        if hand_over and self.ending.why_cancelled is None and (why := hand_over.observe(progress)):
            self.ending.is_only_here = hand_over.is_certain
            self._give_up(f"{why}; it runs on here. {DESTINATION_KNOWS.capitalize()}")

    def _brains_wish(self, progress: Progress) -> str | None:
        """Let the brain look. A broken policy ends a migration of ours. Raises PolicyError for somebody else's."""
        try:
            return self._crew.body.observe(progress)
        except PolicyError as error:
            if not self._ours:
                raise
            self.ending.policy_broken = True
            self._ports.tell(str(error))
            return str(error)

    def _give_up(self, why: str | None) -> None:
        """Cancel for a reason, if there is one and none was before; in post-copy it is only told."""
        if why is None or self.ending.why_cancelled is not None:
            return
        self.ending.why_cancelled = why
        if not self._cancel():
            self.ending.why_cancelled = None
            self._ports.tell(IN_POSTCOPY)

    def _cancel(self) -> bool:
        """Let the guest run before all else, and cancel unless it is in post-copy. Returns whether it was cancelled."""
        self._crew.body.stop()
        cancelled = cancel_migration(self._monitor)
        if cancelled:
            self.ending.is_cancelled_by_us = True
            self._cancellation.begin()
        return cancelled

    def cancel(self, asked: CancelledError) -> bool:
        """Cancel what is ours. Raises CancelledError or InterruptionError if it is not, or is in post-copy."""
        self._monitor.hurry()
        if not self._ours:
            raise CancelledError("let go of the migration, which goes on by itself")
        if self._cancel():
            return True
        number = self._ports.cancel.signal_number
        raise CancelledError(IN_POSTCOPY) if number is None else InterruptionError(IN_POSTCOPY, number)

    def _left_alone(self, error: MonitorError) -> MonitorError:
        """Return an error that says what is true once nobody can be asked any more."""
        if self._process and self._process.ends_within(_ENDING_NS, self._ports.clock.sleep_ns):
            return MonitorError(
                f"{error}; the VM's process has ended, and its guest with it unless the destination has it"
            )
        if self._crew.body.stop():
            return MonitorError(f"{error}; nothing slows the guest any more, and its migration may go on by itself")
        return MonitorError(f"{error}; its migration may go on by itself")

    def _call_off(self) -> None:
        """Cancel, after an error that leaves nobody to look after the migration, and wait until that is done."""
        with suppress(VmferryError):
            self._monitor.hurry()
            self._ports.cancel.close()
            if self._cancel():
                follow(self._monitor, self._ports.clock, self._ports.cancel, Follower(), self._cancellation)
