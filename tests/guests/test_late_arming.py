"""Real dirty logs in virtual time: a KVM guest writes as many pages as a virtual link's time allows it, and no more.

So what is sent and what is armed are counts, the same ones on every machine.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache

import numpy as np
import pytest

from tests.support.kvm import wait_until
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.guests.payload import STRESS_ELF
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.migration.destination import MigrationDestination
from vmferry.migration.handshake import Credentials
from vmferry.migration.journal import MemoryJournal
from vmferry.migration.source import MigrationSource
from vmferry.migration.status import MigrationStatus
from vmferry.settings.capabilities import MigrationCapabilities
from vmferry.settings.choices import Rearm
from vmferry.settings.parameters import MigrationParameters
from vmferry.simulation.clock import VirtualClock
from vmferry.simulation.link import LinkModel, SimulatedChannel
from vmferry.units import MIB, NS_PER_MS, NS_PER_S, PAGE_SIZE_BYTES
from vmferry.wire.format import NONCE_BYTES
from vmferry.wire.messages import Message, Pages

pytestmark = pytest.mark.kvm

MEMORY_BYTES = 128 * MIB
WRITER = """
    a1 00 00 20 00          again:  mov eax, [0x200000]     ; how many pages it may write
    3b 05 04 00 20 00               cmp eax, [0x200004]     ; how many it has written
    75 04                           jne write
    f3 90                           pause
    eb ef                           jmp again
    69 f6 0d 66 19 00       write:  imul esi, esi, 1664525
    81 c6 5f f3 6e 3c               add esi, 1013904223
    89 f7                           mov edi, esi
    c1 ef 13                        shr edi, 19             ; one of 8192 pages
    c1 e7 0c                        shl edi, 12
    89 b7 00 00 40 00               mov [edi + 0x400000], esi
    ff 05 04 00 20 00               inc dword [0x200004]
    eb cd                           jmp again
"""
COUNTERS_GPA, WRITTEN_GPA, WRITTEN_PAGES = 0x20_0000, 0x40_0000, 1 << 13
LINK_BYTES_PER_S = 32 * MIB
STEP_NS = 20 * NS_PER_MS
CREDENTIALS = Credentials(bytes(NONCE_BYTES))


class RandomWriter(KvmGuest):
    """Writes pages picked by chance when it is told to, and counts what is armed."""

    def __init__(self) -> None:
        super().__init__(MEMORY_BYTES, 1)
        self.armed_at_syncs = self.armed_when_taken = 0
        self._synced = False

    def begin(self) -> None:
        """Run, and write nothing yet."""
        self.boot(STRESS_ELF.read_bytes())
        code = bytes.fromhex("".join(line[4:28] for line in WRITER.splitlines()))
        self.physical_memory(0x10_0000, 1 << 16)[:] = code.rjust(1 << 16, b"\x90")  # the entry lies in the nops
        self.physical_memory(WRITTEN_GPA, WRITTEN_PAGES * PAGE_SIZE_BYTES)[:] = b"\1" * WRITTEN_PAGES * PAGE_SIZE_BYTES
        self.resume()

    def write(self, pages: int) -> None:
        """Return when it has written so many more."""
        counters = np.frombuffer(self.physical_memory(COUNTERS_GPA, 8), np.uint32)
        counters[0] += pages
        wait_until(lambda: counters[0] == counters[1], poll_s=0.0002)

    def collect_dirty(self, bitmap: Bitmap) -> None:
        super().collect_dirty(bitmap)
        self._synced = True

    def arm(self, pages: PageRuns) -> None:
        super().arm(pages)
        if self._synced:
            self.armed_at_syncs += pages.page_count
        else:
            self.armed_when_taken += pages.page_count
        self._synced = False


@contextmanager
def both_guests() -> Iterator[tuple[RandomWriter, KvmGuest]]:
    with closing(RandomWriter()) as here, closing(KvmGuest(MEMORY_BYTES, 1)) as there:
        yield here, there


class Figures:
    """What one migration has come to, of a guest that writes that share of what the link carries."""

    def __init__(self, rearm: Rearm, share: float) -> None:
        with both_guests() as (here, there):
            here.begin()
            self._migrate(here, there, rearm, round(share * LINK_BYTES_PER_S / PAGE_SIZE_BYTES * STEP_NS / NS_PER_S))
            self.armed_at_syncs, self.armed_when_taken = here.armed_at_syncs, here.armed_when_taken

    def _migrate(self, here: RandomWriter, there: KvmGuest, rearm: Rearm, step_pages: int) -> None:
        clock = VirtualClock()

        def copy(message: Message) -> None:
            for first, count in message.data if isinstance(message, Pages) else ():
                there.view(first, count)[:] = here.view(first, count)

        def let_write() -> None:
            if here.running:
                here.write(step_pages)
            clock.schedule(clock.now_ns() + STEP_NS, let_write)

        let_write()
        destination = MigrationDestination(there, clock, MemoryJournal(), CREDENTIALS)
        link = LinkModel(LINK_BYTES_PER_S, batch_pages=256)
        channel = SimulatedChannel(clock, link, destination, np.random.default_rng(1), copy)
        parameters = MigrationParameters(max_bandwidth=0, downtime_limit=50, x_dirty_log_rearm=rearm, verify=True)
        source = MigrationSource(
            here,
            lambda while_blocked: channel,
            clock,
            MemoryJournal(),
            lambda: parameters,
            MigrationCapabilities(),
            CREDENTIALS,
        )
        source.run()
        assert source.status is MigrationStatus.COMPLETED, source.error
        assert source.info().verified
        self.sent_bytes = channel.sent_bytes


@cache
def figures(rearm: Rearm, share: float) -> Figures:
    return Figures(rearm, share)


@pytest.mark.parametrize(("share", "at_most"), [(0.6, 0.85), (0.9, 0.75)])
def test_arming_late_sends_less(share: float, at_most: float) -> None:
    early, late = (figures(rearm, share) for rearm in (Rearm.EARLY, Rearm.LATE))
    assert late.sent_bytes <= at_most * early.sent_bytes


def test_arming_late_leaves_syncs_little_to_arm() -> None:
    """One of eight pages of a guest of this size is armed early."""
    early, late = (figures(rearm, 0.9) for rearm in (Rearm.EARLY, Rearm.LATE))
    assert early.armed_when_taken == 0
    assert 0 < late.armed_at_syncs <= late.armed_when_taken / 4
