"""The kinds of VMs that are migrated live under faults, and how a migration of each is ordered."""

import random
from dataclasses import dataclass

import msgspec

from bench import peers
from bench.chaos.faults import Place, byte_place, frame_place, may_hit_pages
from bench.peers import Load, Peer
from vmferry.convergence.variants import VARIANTS
from vmferry.units import MIB

VERIFY = ("on", "auto", "off")
RESPONSIVE = "background-sync+responsive-throttle"
_SHORT_TIMES = ["--stall-timeout", "20s", "--x-evaluation-period", "100ms", "--x-watch-interval", "100ms"]
_SHORT_TIMES += ["--x-background-sync-interval", "100ms"]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a migration is ordered."""

    transport: str
    mib_per_s: int
    downtime_limit_ms: int
    variant: str | None
    verify: str | None = None
    """`on`, `off`, or `auto`, where the VM decides; None of a VM that has no such parameter."""
    destination_monitor: bool = False
    """Who drives the migration may ask the destination, too, which QEMU's protocol alone does not need."""
    after_a_recording: bool = False
    """The stream of an earlier migration is sent to the destination first, which must not take it."""

    def words(self) -> list[str]:
        """Return the options of `vmferry migrate`."""
        words = ["--max-bandwidth", f"{self.mib_per_s}MiB/s", "--downtime-limit", f"{self.downtime_limit_ms}ms"]
        if self.variant:
            words += ["--variant", self.variant]
        if self.verify == "on":
            words.append("--verify")
        if self.verify == "off":
            words.append("--no-auto-verify")
        return words


@dataclass(frozen=True)
class Body:
    """A kind of VM, the guest in it, and how much of it a migration sends about."""

    name: str
    peer: Peer
    load: Load

    @property
    def is_ours(self) -> bool:
        """True for vmferry's own VMs."""
        return self.peer.binary is None

    @property
    def words(self) -> list[str]:
        """Return options of `vmferry migrate` that shorten its waiting; a limit on the time is all that QEMU has."""
        return _SHORT_TIMES if self.is_ours else ["--deadline", "60s"]

    def settings(self, draw: random.Random) -> Settings:
        """Draw how a migration is ordered."""
        transport = draw.choice(("tcp", "unix"))
        if self.is_ours:
            return Settings(
                transport=transport,
                mib_per_s=draw.choice((32, 64, 256)),
                downtime_limit_ms=draw.choice((50, 200)),
                verify=draw.choice(VERIFY),
                variant=draw.choice((None, *VARIANTS)),
                after_a_recording=draw.random() < 0.1,
            )
        return Settings(
            transport=transport,
            mib_per_s=draw.choice((32, 64)),
            downtime_limit_ms=draw.choice((50, 300)),
            variant=draw.choice((None, RESPONSIVE)),
            destination_monitor=draw.random() < 0.5,
        )

    def place(self, draw: random.Random) -> Place:
        """Draw where a fault happens."""
        return (frame_place if self.is_ours else byte_place)(draw, 2 * self.load.stress_mib * MIB)

    def has_window(self, settings: Settings) -> bool:
        """Tell whether a lost last word of the destination may leave two copies, as QEMU's own protocol has it."""
        return not (self.is_ours or settings.destination_monitor)

    def protects(self, settings: Settings, place: Place) -> bool:
        """Tell whether a bit that flips there must be noticed at any rate; QEMU's streams have no checksums."""
        return self.is_ours and (settings.verify == "on" or not may_hit_pages(place))


def ours() -> Body:
    """Return vmferry's VMs."""
    return Body("vmferry", Peer("vmferry"), Load(32, 2, 8))


def qemus(qemu10: str | None) -> list[Body]:
    """Return the VMs of the QEMU that is installed, and of QEMU 10 if it was unpacked somewhere."""
    return [Body(peer.name, peer, Load(64, 1, 32)) for peer in peers.qemus(qemu10)]
