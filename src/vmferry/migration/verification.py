"""What it costs to compare a digest of all memory on both sides, worked out before the guest is stopped for it.

Pages are read while the vCPUs write them, so what is sent of a running guest carries no checksum; only a digest of the
stopped guest's memory tells whether all of it arrived as it was.
"""

from vmferry.migration.ports import Clock, Guest

_SAMPLE_PAGES = 16_384
"""64 MiB: enough to be slower than the processor's caches, and done in a few milliseconds."""
_SIDES = 2
"""The destination begins when the source is done."""
_MARGIN = 2
"""For a destination that is slower or busier, and for a sample that was lucky."""


def estimate_digests_ns(guest: Guest, clock: Clock) -> int:
    """Hash the first pages, also of a running guest, and return how long all pages may take on both sides."""
    page_count = guest.layout.page_count
    sample_pages = min(page_count, _SAMPLE_PAGES)
    start_ns = clock.now_ns()
    guest.memory_digest(sample_pages)
    return _MARGIN * _SIDES * (clock.now_ns() - start_ns) * page_count // sample_pages
