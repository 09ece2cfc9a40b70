"""The digest of all memory, which both sides compare before the hand-over, and what it may cost.

Pages are read while the vCPUs write them, so what is sent of a running guest carries no checksum; only a digest of the
stopped guest's memory tells whether all of it arrived as it was. What that costs is worked out beforehand from a
sample. A host may be busier a moment later, so a digest that takes longer than it may is given up.
"""

from collections.abc import Callable

from vmferry.memory.bitmap import Bitmap
from vmferry.migration.ports import Clock, Guest

_SAMPLE_PAGES = 16_384
"""64 MiB: enough to be slower than the processor's caches, and done in a few milliseconds."""
_SIDES = 2
"""Both sides work out a digest, the destination when the source is done."""
_MARGIN = 2
"""The estimate is multiplied by this: the destination may be slower or busier, and the sample may have been lucky."""


class _TimeIsUpError(Exception):
    pass


def estimate_digests_ns(guest: Guest, clock: Clock) -> int:
    """Hash the first pages, also of a running guest, and return how long all pages may take on both sides.

    What was never touched takes no time.
    """
    touched = Bitmap(guest.layout.page_count)
    guest.find_touched(touched)
    sample = Bitmap(touched.page_count)
    sample.set_range(0, min(touched.page_count, _SAMPLE_PAGES))
    start_ns = clock.now_ns()
    guest.memory_digest(sample.count())
    sample &= touched
    return _MARGIN * _SIDES * (clock.now_ns() - start_ns) * touched.count() // max(1, sample.count())


def digest_in_time(
    guest: Guest, clock: Clock, limit_ns: int | None, check: Callable[[], None] = lambda: None
) -> bytes | None:
    """Return the digest of all memory of the stopped guest, or None if it takes longer than `limit_ns`, if that is set.

    `check` is called now and then, and may raise.
    """
    if limit_ns is not None and limit_ns <= 0:
        return None
    start_ns = clock.now_ns()

    def while_reading() -> None:
        check()
        if limit_ns is not None and clock.now_ns() - start_ns > limit_ns:
            raise _TimeIsUpError

    try:
        return guest.memory_digest(None, while_reading)
    except _TimeIsUpError:
        return None
