"""The dirty log over all memory slots.

With manual protection (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, Linux 5.1) reading the log changes nothing, and clearing bits
arms their pages. Clearing is done for a GiB at a time at the most, as it takes the lock that vCPUs wait for. Without
manual protection, reading the log also arms all that it tells; what was read is then kept until it is armed here, so
a page that was written before and after it was read is told, and sent, twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vmferry.guests.kvm import abi
from vmferry.guests.kvm.vm import KvmVm
from vmferry.memory.bitmap import Bitmap
from vmferry.memory.ranges import PageRuns
from vmferry.units import PAGE_SIZE_BYTES

_WORD_PAGES = 64
_CHUNK_WORDS = (1 << 18) // _WORD_PAGES
"""What is cleared at once, as QEMU does by its `clear-bitmap-shift`."""


@dataclass(frozen=True)
class Slot:
    """A memory slot: pages `first_page` on of guest RAM, at guest physical address `gpa`."""

    number: int
    first_page: int
    page_count: int
    gpa: int
    address: int
    """Where it is mapped in this process."""

    @property
    def first_word(self) -> int:
        """Where its pages begin among the words of a bitmap of all pages."""
        return self.first_page // _WORD_PAGES

    @property
    def end_word(self) -> int:
        """One past where they end."""
        return -(-(self.first_page + self.page_count) // _WORD_PAGES)

    def region(self, flags: int) -> abi.UserspaceMemoryRegion:
        """Return the structure that makes KVM use this slot."""
        size_bytes = self.page_count * PAGE_SIZE_BYTES
        return abi.UserspaceMemoryRegion(self.number, flags, self.gpa, size_bytes, self.address)


class DirtyLog:
    """Logs writes to the slots of a VM; each slot but the last holds a multiple of 64 pages."""

    def __init__(self, vm: KvmVm, slots: Sequence[Slot], *, manual_protection: bool) -> None:
        self._vm = vm
        self._slots = slots
        self._manual_protection = manual_protection
        self._told = Bitmap(0 if manual_protection else sum(slot.page_count for slot in slots))
        if manual_protection:
            vm.enable_capability(abi.CAP_MANUAL_DIRTY_LOG_PROTECT2, abi.DIRTY_LOG_MANUAL_PROTECT_ENABLE)

    def start(self) -> None:
        """Begin to log; nothing is dirty at first."""
        self._told.clear_all()
        self._set_flags(abi.MEM_LOG_DIRTY_PAGES)

    def stop(self) -> None:
        """End logging; harmless if it is off."""
        self._set_flags(0)

    def collect(self, bitmap: Bitmap) -> None:
        """Overwrite `bitmap` with what was written since each page was last armed."""
        for slot in self._slots:
            self._vm.get_dirty_log(slot.number, bitmap.words[slot.first_word : slot.end_word])
        if not self._manual_protection:
            self._told |= bitmap
            bitmap.copy_from(self._told)

    def arm(self, pages: PageRuns) -> None:
        """Log these pages anew."""
        if not self._manual_protection:
            self._told.clear_runs(pages)
        elif pages:
            for slot in self._slots:
                self._clear(slot, pages)

    def _clear(self, slot: Slot, pages: PageRuns) -> None:
        """Clear the bits of those pages that lie in the slot."""
        offset = pages.place.start
        end_word = min(pages.place.stop, slot.end_word)
        for start in range(max(offset, slot.first_word), end_word, _CHUNK_WORDS):
            words = pages.words[start - offset : min(start + _CHUNK_WORDS, end_word) - offset]
            if words.any():
                first_page = start * _WORD_PAGES - slot.first_page
                page_count = min(len(words) * _WORD_PAGES, slot.page_count - first_page)
                self._vm.clear_dirty_log(slot.number, first_page, page_count, words)

    def _set_flags(self, flags: int) -> None:
        for slot in self._slots:
            self._vm.set_user_memory_region(slot.region(flags))
