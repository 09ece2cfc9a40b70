"""How fast a guest dirties its memory, found out without migrating it (QEMU `migration/dirtyrate.c`).

A page counts once however often it is written, so the longer one looks, the lower is the rate of a
guest that rewrites the same pages.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import xxhash

from vmferry.errors import UsageError
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.layout import GuestLayout
from vmferry.migration.ports import Guest

PERIOD_MS = range(50, 60_001)
"""How long a measurement may take."""

SAMPLE_PAGES_PER_GIB = range(128, 16_385)
DEFAULT_SAMPLE_PAGES_PER_GIB = 512


class DirtyRateMode(StrEnum):
    """How to measure, in QEMU's words."""

    PAGE_SAMPLING = "page-sampling"
    DIRTY_RING = "dirty-ring"
    DIRTY_BITMAP = "dirty-bitmap"


class DirtyRateStatus(StrEnum):
    """How far the measurement is, in QEMU's words."""

    UNSTARTED = "unstarted"
    MEASURING = "measuring"
    MEASURED = "measured"


@dataclass(frozen=True, kw_only=True)
class DirtyRateRequest:
    """What to measure; what QEMU refuses is refused in its words. Raises UsageError."""

    period_ms: int
    mode: DirtyRateMode = DirtyRateMode.PAGE_SAMPLING
    sample_pages_per_gib: int | None = None
    """How many pages of each GiB to hash. Only page sampling takes this, and has a default."""

    def __post_init__(self) -> None:
        if self.period_ms not in PERIOD_MS:
            raise UsageError("Calculation time is out of range [50ms, 60000ms].")
        if self.sample_pages_per_gib is not None:
            if self.mode is not DirtyRateMode.PAGE_SAMPLING:
                raise UsageError("sample-pages is used only in page-sampling mode")
            if self.sample_pages_per_gib not in SAMPLE_PAGES_PER_GIB:
                raise UsageError("sample-pages is out of range[128, 16384].")
        if self.mode is DirtyRateMode.DIRTY_RING:
            raise UsageError("mode dirty-ring is not enabled, use other method instead.")


@dataclass(frozen=True, kw_only=True)
class DirtyRateInfo:
    """The latest measurement."""

    status: DirtyRateStatus = DirtyRateStatus.UNSTARTED
    mode: DirtyRateMode = DirtyRateMode.PAGE_SAMPLING
    period_ms: int = 0
    sample_pages_per_gib: int = 0
    """How many pages of each GiB were hashed; 0 in modes that hash none."""
    start_s: int = 0
    """When it began, seconds after the Unix epoch."""
    mib_per_s: int | None = None
    """What was measured; None until then."""


class ReadableGuest(Protocol):
    """A guest whose pages can be looked at while it runs."""

    @property
    def layout(self) -> GuestLayout:
        """RAM blocks, page size and vCPU count; constant."""
        ...

    def view(self, first_page: int, page_count: int) -> memoryview:
        """Return a view of the bytes of some pages."""
        ...


class Probe(Protocol):
    """Tells how much the guest has dirtied since the probe was made."""

    def dirtied_bytes(self) -> int:
        """Return the size of the pages dirtied up to now."""
        ...

    def close(self) -> None:
        """Leave the guest as it was."""
        ...


class DirtyLogProbe:
    """Counts with the dirty log, which nobody else may use meanwhile. It slows the guest's first writes."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest
        guest.start_dirty_log()

    def dirtied_bytes(self) -> int:
        """Collect the log."""
        layout = self._guest.layout
        dirty = Bitmap(layout.page_count)
        self._guest.collect_dirty(dirty)
        return dirty.count() * layout.page_size

    def close(self) -> None:
        """End logging."""
        self._guest.stop_dirty_log()


class PageSamplingProbe:
    """Hashes pages chosen by chance; blind to writes of what was there before, and to small hot areas."""

    def __init__(self, guest: ReadableGuest, sample_pages_per_gib: int, random: np.random.Generator) -> None:
        self._guest = guest
        layout = guest.layout
        samples = max(1, sample_pages_per_gib * layout.size_bytes >> 30)
        self._pages = random.integers(layout.page_count, size=samples).tolist()
        self._hashes = self._hash()

    def dirtied_bytes(self) -> int:
        """Compare the samples and conclude from their share to all memory."""
        changed = sum(old != new for old, new in zip(self._hashes, self._hash(), strict=True))
        return changed * self._guest.layout.size_bytes // len(self._pages)

    def close(self) -> None:
        """Nothing was done to the guest."""

    def _hash(self) -> list[int]:
        return [xxhash.xxh3_64_intdigest(self._guest.view(page, 1)) for page in self._pages]
