"""The kinds of VMs that are migrated live under faults, and how a migration of each is ordered."""

import random
from dataclasses import dataclass

import msgspec

from bench import peers
from bench.chaos.faults import Place, byte_place, frame_place, may_hit_pages
from bench.peers import Load, Peer
from vmferry.convergence.policy import VARIANTS

RESPONSIVE = "background-sync+responsive-throttle"
MIB = 1 << 20


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a migration is ordered."""

    transport: str
    mib_per_s: int
    downtime_limit_ms: int
    variant: str | None
    verify: bool | None = None
    """None of a VM that has no such parameter."""
    evaluation_ms: int | None = None
    """The VM decides anew after so long; None is its own value."""
    after_a_recording: bool = False
    """The stream of an earlier migration is sent to the destination first, which must not take it."""

    def words(self) -> list[str]:
        """Return the options of `vmferry migrate`."""
        words = ["--max-bandwidth", f"{self.mib_per_s}MiB/s", "--downtime-limit", f"{self.downtime_limit_ms}ms"]
        if self.variant:
            words += ["--variant", self.variant]
        if self.verify is not None:
            words += ["--verify" if self.verify else "--no-verify"]
        for name in ("evaluation-period", "watch-interval", "background-sync-interval") if self.evaluation_ms else ():
            words += [f"--x-{name}", f"{self.evaluation_ms}ms"]
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

    def settings(self, draw: random.Random) -> Settings:
        """Draw how a migration is ordered."""
        transport = draw.choice(("tcp", "unix"))
        if self.is_ours:
            return Settings(
                transport=transport,
                mib_per_s=draw.choice((32, 64, 256)),
                downtime_limit_ms=draw.choice((50, 200)),
                verify=draw.random() < 0.5,
                variant=draw.choice((None, *VARIANTS)),
                evaluation_ms=100,
                after_a_recording=draw.random() < 0.1,
            )
        return Settings(
            transport=transport,
            mib_per_s=draw.choice((32, 64)),
            downtime_limit_ms=draw.choice((50, 300)),
            variant=draw.choice((None, RESPONSIVE)),
        )

    def place(self, draw: random.Random) -> Place:
        """Draw where a fault happens."""
        return (frame_place if self.is_ours else byte_place)(draw, 2 * self.load.stress_mib * MIB)

    def protects(self, settings: Settings, place: Place) -> bool:
        """Tell whether a bit that flips there must be noticed; QEMU's streams have no checksums."""
        return self.is_ours and (bool(settings.verify) or not may_hit_pages(place))


def ours() -> Body:
    """Return vmferry's VMs."""
    return Body("vmferry", Peer("vmferry"), Load(32, 2, 8))


def qemus(qemu10: str | None) -> list[Body]:
    """Return the VMs of the QEMU that is installed, and of QEMU 10 if it was unpacked somewhere."""
    return [Body(peer.name, peer, Load(64, 1, 32)) for peer in peers.qemus(qemu10)]
