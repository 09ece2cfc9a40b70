"""Migrations of a real VM whose connection drips from some byte on; is the guest held longer than it should be?"""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.chaos.faults import Direction, Drip, Place
from bench.chaos.proxy import Proxy
from bench.peers import Load, Peer
from vmferry.control.vm_record import COMMAND
from vmferry.migration.events import Ended, SwitchoverFailed
from vmferry.migration.journal import Entry
from vmferry.perf.lab import Lab, VmProcess
from vmferry.transport.uri import UnixAddress, parse_uri

_FOR_EVER = 1 << 30
_PLACES = {Direction.THERE: ("STATE", "DIGEST", "FINISH"), Direction.BACK: ("READY",)}
"""What is sent while the guest is stopped, before COMMIT; whose the guest is after that does not depend on time."""


class DrippedRun(msgspec.Struct, frozen=True):
    """How one migration ended: for how long the guest was stopped, and whether it ran on at the source."""

    place: Place
    gap_ms: int
    stopped_ns: int
    error: str


def dripped_runs(peer: Peer, count: int, timeout_ms: int) -> Iterator[DrippedRun]:
    """Migrate one guest so often, each time by a connection that drips from another byte on."""
    draw = random.Random(1)
    faults = (_draw(draw, timeout_ms) for _ in itertools.count())
    with Lab() as lab:
        source, _, uri = peer.start_pair(lab, Load(64, 1, 16))
        for number, fault in zip(range(count), faults, strict=False):
            address = UnixAddress(str(Path(lab.directory) / f"{number}.sock"))
            with Proxy(address, parse_uri(uri), fault, lambda incident: None) as proxy:
                settings = {"max-bandwidth": 0, "switchover-timeout": timeout_ms, "verify": True}
                result = peer.migrate(source, str(proxy.address), settings)
            assert result.last.status == "failed", result
            assert source.monitor.execute("query-status")["status"] == "running"
            yield DrippedRun(fault.place, fault.gap_ms, _stopped_ns(source), result.last.error or "")


def _draw(draw: random.Random, timeout_ms: int) -> Drip:
    """Draw a place in the first half of a frame whose other half takes longer than the time limit."""
    direction, frames = draw.choice(list(_PLACES.items()))
    place = Place(direction, draw.randrange(9), draw.choice(frames))
    return Drip(place, _FOR_EVER, round(timeout_ms * draw.choice((0.25, 0.5, 1, 1.5))))


def _stopped_ns(source: VmProcess) -> int:
    """Return for how long the guest was stopped, as the VM recorded it; 0 if it was not."""
    lines = source.monitor.execute(COMMAND)["lines"]
    events = [msgspec.json.decode(line, type=Entry).event for line in lines]
    assert any(isinstance(event, Ended) for event in events)
    return sum(event.stopped_ns for event in events if isinstance(event, SwitchoverFailed))
