"""A modelled guest in a modelled QEMU process: whether it runs, and what slows it."""

from vmferry.simulation.costs import GuestCosts
from vmferry.simulation.guest import SimulatedGuest
from vmferry.simulation.link import Pace
from vmferry.simulation.process import Steps
from vmferry.simulation.qemu.board import Board
from vmferry.simulation.qemu.destination import ModelledDestination
from vmferry.simulation.qemu.dirty_log import ModelledDirtyLog
from vmferry.simulation.qemu.releases import Release
from vmferry.simulation.qemu.settings import ModelledSettings
from vmferry.units import NS_PER_MS

QUOTA = "quota"
"""Names the quota that slows the guest from outside and delays its stop."""
FINISHING, POSTMIGRATE, PAUSED, RUNNING = "finish-migrate", "postmigrate", "paused", "running"
_STOP_NS = NS_PER_MS
STILL_PERCENT = 99.9
"""What the shortest quota takes in the longest period."""
_QUOTA_PERIODS_NS = ((98, 10 * NS_PER_MS), (99, 100 * NS_PER_MS), (STILL_PERCENT, 1000 * NS_PER_MS))
"""In which time a vCPU gets its quota once, by the percentage that is taken (`control/slowing/cpu_quota.py`)."""
_RESUMPTION_NS = 60_000
"""What a vCPU needs of each quota to get going again: to enter the guest, and to fill the caches.

Measured with the stress payload, which writes 455,000 pages in a second of CPU time at 50 %, and 440,000 at 90 %.
"""


class Host:
    """The source of migrations, without its monitor."""

    def __init__(
        self,
        board: Board,
        release: Release,
        guest: SimulatedGuest,
        costs: GuestCosts,
        pace: Pace,
        latency_ns: int,
        destination: ModelledDestination,
    ) -> None:
        """The guest looks at its memory for free; `costs` are what that costs QEMU."""
        self.board = board
        self.release = release
        self.settings = ModelledSettings(release)
        self.guest = guest
        self.costs = costs
        self.pace = pace
        self.latency_ns = latency_ns
        self.destination = destination
        self.log = ModelledDirtyLog(guest)
        self.run_state = RUNNING
        self._throttles: dict[str, float] = {}

    @property
    def runs_guest(self) -> bool:
        """True while the guest runs here."""
        return self.guest.running

    def throttle(self, by: str, percent: float) -> None:
        """Have somebody take this share of the guest's time; what several take adds up."""
        self._throttles[by] = percent
        left = 1.0
        for name, taken in self._throttles.items():
            left *= (1 - taken / 100) * (1 - _RESUMPTION_NS / _quota_ns(taken) if name == QUOTA and taken else 1)
        self.guest.set_throttle(100 * (1 - left))

    def throttle_by(self, by: str) -> float:
        """Return what somebody takes."""
        return self._throttles.get(by, 0)

    def release_quota(self) -> None:
        """Take nothing from outside any more. A vCPU that was out of quota, and is to stop, stops without running."""
        if self.run_state == FINISHING and self.throttle_by(QUOTA):
            self.guest.pause()
        self.throttle(QUOTA, 0)

    def set_running(self, running: bool) -> None:
        """Pause the guest or let it run, as somebody says."""
        if running == self.guest.running:
            return
        self.run_state = RUNNING if running else PAUSED
        (self.guest.resume if running else self.guest.pause)()
        self.board.tell("RESUME" if running else "STOP")

    def stop_for_hand_over(self) -> Steps:
        """Stop the guest. vCPUs that are out of quota notice that late, unless the quota goes meanwhile."""
        if not self.guest.running:
            return
        self.run_state = FINISHING
        end_ns = self.board.clock.now_ns() + self._stop_ns()
        while self.board.clock.now_ns() < end_ns and self.throttle_by(QUOTA):
            yield NS_PER_MS
        yield _STOP_NS
        self.guest.pause()
        self.board.tell("STOP")

    def hand_over(self) -> None:
        """The guest is another's now."""
        self.run_state = POSTMIGRATE

    def run_on(self, ran: bool) -> None:
        """Let a guest that was to be handed over run on, if it ran before."""
        if self.run_state == FINISHING:
            self.run_state = PAUSED
            if ran:
                self.set_running(True)

    def _stop_ns(self) -> int:
        """Return how long a vCPU that is out of quota stands still."""
        percent = self.throttle_by(QUOTA)
        return _period_ns(percent) - _quota_ns(percent)


def _period_ns(percent: float) -> int:
    return next(ns for most, ns in _QUOTA_PERIODS_NS if percent <= most)


def _quota_ns(percent: float) -> int:
    return round(_period_ns(percent) * (100 - percent) / 100)
