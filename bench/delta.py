"""Sending only what changed (`xbzrle`) beside sending whole pages. `bench.migration` has the command."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import click

from bench.peers import RESPONSIVE, Load, Peer, moved, ours, rounds
from bench.samples import Samples
from vmferry.study.compare import compare
from vmferry.units import MIB

PAGES_PER_MIB = 256
MODES = ("whole", "delta")
_NAMES = {"sent": "MiB", "total_time": "s", "work_lost": "vCPU-s", "downtime": "ms"}


@dataclass(frozen=True)
class Case:
    """A guest, and the cache for what was sent of it."""

    name: str
    cache_mib: int
    more: str = ""
    """What the payload is told; by itself it writes one word of each page."""


def cases(stress_mib: int) -> list[Case]:
    """Return where it should pay, where half of the pages find a place in the cache, and where it cannot pay."""
    enough = 1 << (stress_mib - 1).bit_length()
    return [
        Case("a word of each page", enough),
        Case("a word of each page, cache for a part", max(1, enough // 4)),
        Case("every word", enough, "mode=xor"),
    ]


def measure_delta(samples: Samples, runs: int, *, rate_mib: int, stress_mib: int, share: float) -> None:
    """Migrate guests that write `share` times what the link carries, with the throttle that they need."""
    peers = [replace(ours(RESPONSIVE), name=mode) for mode in MODES]
    for case in cases(stress_mib):
        settings = {"case": case.name, "rate_mib_per_s": rate_mib, "stress_mib": stress_mib, "share": share}
        load = Load(stress_mib + 64, 2, stress_mib, f"{case.more} pace={round(share * rate_mib * PAGES_PER_MIB)}")
        for _, peer in rounds(peers, runs):
            for name, value in figures(peer, load, rate_mib, case.cache_mib).items():
                samples.add(name, value, _NAMES[name], mode=peer.name, **settings)
        for name in _NAMES:
            tell_difference(samples, name, settings)


def figures(peer: Peer, load: Load, rate_mib: int, cache_mib: int) -> dict[str, float]:
    """Return those of one migration."""
    parameters = {"max-bandwidth": rate_mib * MIB, "downtime-limit": 100, "xbzrle-cache-size": cache_mib * MIB}
    outcome = moved(peer, load, parameters, capabilities={"xbzrle": peer.name == "delta"})
    return {
        "sent": (outcome.sent_bytes or 0) / MIB,
        "total_time": (outcome.total_time_ms or 0) / 1000,
        "work_lost": outcome.work_lost_vcpu_s or 0.0,
        "downtime": outcome.downtime_ms or 0,
    }


def tell_difference(samples: Samples, name: str, settings: Mapping[str, object]) -> None:
    whole, delta = (samples.values(name, mode=mode, **settings) for mode in MODES)
    change = f"{sum(delta) / sum(whole) - 1:+.0%}" if sum(whole) else "nothing in either"
    click.echo(f"{name}, {settings['case']}: delta / whole {change}, p = {compare(whole, delta).p:.3f}", err=True)
