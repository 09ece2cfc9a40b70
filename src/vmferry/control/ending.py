"""Why a migration ends as it does, and where its guest is then; QEMU's last state tells neither."""

from collections.abc import Iterable
from dataclasses import replace

from vmferry.client.qmp_client import Event
from vmferry.control.arriving.hand_over import HandOver
from vmferry.control.asking.event_times import EventTimes
from vmferry.control.asking.progress import Progress
from vmferry.control.asking.result import Result

DESTINATION_KNOWS = "the reason is in the destination's stderr or log"
MIGRATION = "MIGRATION"
"""QEMU's event that tells a new state, with the capability `events`."""
MAYBE_TWO = "failed at the hand-over: the source runs on; look whether the destination runs too before anything else"
NEVER_TWO = "failed at the hand-over: the source runs on, and the destination was not let run"


class Ending:
    """What there is to say of the end of one migration, noted while it goes on."""

    def __init__(self, hand_over: HandOver | None, *, is_held: bool) -> None:
        """`hand_over` is None where its bound is none of ours; `is_held` if the destination runs no guest by itself."""
        self.used_destination = False
        """True once the destination has accepted the migration."""
        self.why_cancelled: str | None = None
        """Why we have called it off; None if we have not."""
        self.is_cancelled_by_us = False
        """True if the VM was told to cancel it, for whichever reason."""
        self.used_postcopy = False
        """True if it was in post-copy at a poll."""
        self.policy_broken = False
        """True if that is because the policy is broken."""
        self.is_only_here = False
        """True if the destination is known not to have the guest."""
        self.left_to_send = True
        """True if some of the guest's memory was still to be sent at the last poll."""
        self._hand_over = hand_over
        self._is_held = is_held
        self._event_times = EventTimes()

    def observe(self, progress: Progress) -> None:
        """Note what a poll tells."""
        self.used_destination = self.used_destination or progress.status == "active"
        self.used_postcopy = self.used_postcopy or progress.in_postcopy
        self.left_to_send = progress.status in ("setup", "active") and progress.remaining_bytes != 0

    def hear(self, events: Iterable[Event], now_ns: int) -> int | None:
        """Note what QEMU has said by itself, which no poll may have seen. Return when the guest was stopped, if so."""
        stopped_ns = None
        for event in events:
            happened_ns = self._event_times.of(event, now_ns)
            if event.name == "STOP":
                stopped_ns = happened_ns
            if event.name == MIGRATION and event.data.get("status") == "active":
                self.used_destination = True
        if self._hand_over and stopped_ns is not None:
            self._hand_over.has_begun = self.used_destination = True
        return stopped_ns

    def of(self, result: Result) -> Result:
        """Return how it ended with the reasons for that."""
        if result.completed:
            return replace(result, used_postcopy=self.used_postcopy)
        last = result.last
        reasons = [self.why_cancelled, self._told(last), self._where_the_guest_is()]
        if last.status == "cancelled" and not self.is_cancelled_by_us:
            reasons.insert(0, "by somebody else")
        if last.status == "failed" and self.used_destination and self._hand_over and not self.why_cancelled:
            reasons.append(DESTINATION_KNOWS)
        error = "; ".join(filter(None, reasons)) or None
        gave_up = self.why_cancelled is not None
        return replace(result, last=replace(last, error=error), policy_broken=self.policy_broken, gave_up=gave_up)

    def _told(self, last: Progress) -> str | None:
        """Return what is to be told of the VM's own reason: QEMU 10 says how the channel of a cancelled one broke."""
        if last.status == "cancelled" and self._hand_over:
            return None
        return last.error if last.status == "cancelling" or not self.why_cancelled else None

    def _where_the_guest_is(self) -> str | None:
        """Say it of a guest that was stopped for its hand-over, which then failed."""
        if self.is_only_here or not (self._hand_over and self._hand_over.has_begun):
            return None
        return NEVER_TWO if self._is_held else MAYBE_TWO
