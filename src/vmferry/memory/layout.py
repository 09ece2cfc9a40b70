"""What the RAM of a guest looks like to a migration: blocks of pages, numbered through.

A *page index* counts pages over all blocks in order, starting at 0; it is not a guest
physical address. Both sides of a migration must have equal layouts.
"""

from dataclasses import dataclass

from vmferry.units import PAGE_SIZE_BYTES


@dataclass(frozen=True)
class RamBlock:
    """A named, contiguous piece of guest RAM of `page_count` pages."""

    name: str
    page_count: int


@dataclass(frozen=True)
class GuestLayout:
    """Page size in bytes, RAM blocks in order, and the number of vCPUs."""

    ram_blocks: tuple[RamBlock, ...]
    vcpu_count: int
    page_size: int = PAGE_SIZE_BYTES

    @property
    def page_count(self) -> int:
        """Pages in all blocks together."""
        return sum(block.page_count for block in self.ram_blocks)

    @property
    def size_bytes(self) -> int:
        """Bytes in all blocks together."""
        return self.page_count * self.page_size
