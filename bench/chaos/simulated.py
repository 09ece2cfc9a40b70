"""Migrations of small guests in memory, in virtual time, by the engine as it is shipped: hundreds in a second."""

import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Literal

import msgspec
import numpy as np
from tests.support.loopback import Pair, Writer

from bench.chaos.bodies import VERIFY
from bench.chaos.byte_link import ByteLink, OverdueError, SourceKilledError
from bench.chaos.check import Ended, Observation, Side
from bench.chaos.faults import CATALOGUE, AnyFault, draw_fault, frame_place, generator, may_hit_pages
from bench.chaos.records import Record, judged
from vmferry.migration.status import MigrationStatus
from vmferry.migration.switchover import Owner
from vmferry.units import MIB, NS_PER_S, PAGE_SIZE_BYTES

BODY = "simulated"
FAULTS = [name for name in CATALOGUE if not name.endswith("driver")]
"""Nobody drives the engine here; an interruption is a cancel."""
_CALLED_OFF_NS = 120 * NS_PER_S
"""Then somebody loses patience with a guest that does not converge."""
_STALL_MS = 20_000
_GRACE_NS = NS_PER_S
_TAKE_OVER_NS = 30 * NS_PER_S
"""So long may Commit, and the answer to it, be on their way."""
_LOOKS_BEFORE_SWITCHOVER = 700
_CHUNK = 250
_ENDED = {MigrationStatus.COMPLETED: Ended.COMPLETED, MigrationStatus.CANCELLED: Ended.CANCELLED}


class Settings(msgspec.Struct, frozen=True):
    """A guest that rewrites some of its pages, a link, and parameters of the migration."""

    page_count: int
    written_pages: int
    pages_per_s: int
    mib_per_s: int
    downtime_limit_ms: int
    verify: str
    """`on`, `off`, or `auto`, where the engine decides."""
    background_sync: Literal["off", "preserve", "merge"]
    pause_before_switchover: bool


def draw_settings(draw: random.Random) -> Settings:
    """Draw what a run is to be like."""
    return Settings(
        page_count=draw.choice((8, 33, 100)),
        written_pages=draw.choice((1, 5, 8)),
        pages_per_s=draw.choice((0, 50, 400)),
        mib_per_s=draw.choice((1, 4)),
        downtime_limit_ms=draw.choice((5, 50, 300)),
        verify=draw.choice(VERIFY),
        background_sync=draw.choice(("off", "preserve", "merge")),
        pause_before_switchover=draw.random() < 0.25,
    )


def run_many(seed: int, numbers: Sequence[int], processes: int) -> Iterator[Record]:
    """Yield the records of these runs, in order."""
    with ProcessPoolExecutor(processes) as pool:
        yield from pool.map(partial(run_one, seed), numbers, chunksize=_CHUNK)


def run_one(seed: int, number: int) -> Record:
    """Make the run of this number, which is always the same."""
    draw = generator(seed, number)
    settings = draw_settings(draw)
    fault = draw_fault(draw, FAULTS, lambda draw: frame_place(draw, 2 * settings.page_count * PAGE_SIZE_BYTES))
    run = SimulatedRun(settings, fault)
    return judged(BODY, seed, number, run.seconds, msgspec.to_builtins(settings), run.observation())


class SimulatedRun:
    """One migration with a fault, carried out."""

    def __init__(self, settings: Settings, fault: AnyFault) -> None:
        self.pair = pair = Pair(
            settings.page_count,
            bytes_per_s=settings.mib_per_s * MIB,
            make_channel=partial(ByteLink, fault=fault),
            pause_before_switchover=settings.pause_before_switchover,
            downtime_limit=settings.downtime_limit_ms,
            verify=settings.verify == "on",
            auto_verify=settings.verify == "auto",
            stall_timeout=_STALL_MS,
            background_sync=settings.background_sync,
        )
        self._fault = fault
        self._is_protected = settings.verify == "on" or not may_hit_pages(fault.place)
        self._writer = Writer(pair, settings.written_pages, settings.pages_per_s)
        self._looks_left = _LOOKS_BEFORE_SWITCHOVER
        self._source_is_alive = True
        self._overdue: tuple[str, ...] = ()
        pair.channel.before_send = self._before_send
        pair.clock.on_sleep = self._go_on
        self._run()

    @property
    def seconds(self) -> float:
        """How long it took in virtual time."""
        return self.pair.clock.now_ns() / NS_PER_S

    def observation(self) -> Observation:
        """Return what is to be seen of it."""
        pair, link = self.pair, self.pair.channel
        return Observation(
            fault=self._fault,
            has_fired=link.has_fired,
            ended=self._ended(),
            source=Side(self._source_is_alive, self._source_is_alive and pair.here.running),
            destination=Side(link.destination_is_alive, link.destination_is_alive and pair.there.running),
            both_ran=link.both_ran,
            is_protected=self._is_protected or bool(pair.source.info().verified),
            damage=self._damage(),
            left_behind=tuple(self._left_behind()),
            overdue=(*self._overdue, *self._stopped_too_long()),
        )

    def _run(self) -> None:
        try:
            self.pair.source.run()
        except SourceKilledError:
            self._source_is_alive = False
        except OverdueError as error:
            self._overdue = (str(error),)

    def _before_send(self, message: object) -> None:
        self._writer.work(message)  # type: ignore[arg-type]
        if self.pair.clock.now_ns() > _CALLED_OFF_NS:
            self.pair.source.cancel()

    def _go_on(self) -> None:
        """Let a migration that waits before its switchover go on, after a while."""
        self._looks_left -= self.pair.source.status is MigrationStatus.PRE_SWITCHOVER
        if self._looks_left == 0:
            self.pair.source.continue_from(MigrationStatus.PRE_SWITCHOVER)

    def _ended(self) -> Ended:
        if not self._source_is_alive:
            return Ended.UNKNOWN
        if self.pair.source.owner is Owner.IN_DOUBT:
            return Ended.IN_DOUBT
        return _ENDED.get(self.pair.source.status, Ended.FAILED)

    def _damage(self) -> str:
        """The source's memory does not change after the guest was stopped there, so it is what must arrive."""
        pair = self.pair
        if not pair.destination.in_charge or np.array_equal(pair.here.ram, pair.there.ram):
            return ""
        wrong = np.flatnonzero((pair.here.ram != pair.there.ram).any(axis=1))
        return f"page {wrong[0]} and {len(wrong) - 1} others differ from what was sent"

    def _stopped_too_long(self) -> Iterator[str]:
        """Nobody knows how long a guest stays paused that is in doubt."""
        limit_ns = self.pair.parameters.switchover_timeout_ns() + _GRACE_NS
        if self.pair.source.owner is Owner.DESTINATION:
            limit_ns += _TAKE_OVER_NS
        if self.pair.source.owner is not Owner.IN_DOUBT and self.pair.channel.stopped_ns > limit_ns:
            yield f"the guest was stopped for {self.pair.channel.stopped_ns / NS_PER_S:.1f} s"

    def _left_behind(self) -> Iterator[str]:
        if self.pair.channel.destination_is_alive and not self.pair.destination.in_charge and self.pair.there.ram.any():
            yield "pages in the memory of the destination, which waits for the next source"
        if not self._source_is_alive:
            return
        if self.pair.here.throttle_percent:
            yield f"a throttle of {self.pair.here.throttle_percent} %"
        if self.pair.here.logging:
            yield "the dirty log is on"
        if self.pair.channel.open:
            yield "the connection is open"
