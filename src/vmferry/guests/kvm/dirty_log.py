"""The dirty log over all memory slots.

With manual protection (KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, Linux 5.1) reading the log does not re-arm it; clearing the
bits that were read does, and takes the lock that vCPUs wait for in pieces. Without it, reading does both. Either way
`collect` reports every write once and re-arms before the content is read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vmferry.guests.kvm import abi
from vmferry.guests.kvm.vm import KvmVm
from vmferry.memory.bitmap import Bitmap


@dataclass(frozen=True)
class Slot:
    """A memory slot: pages `first_page` on of guest RAM, at guest physical address `gpa`."""

    number: int
    first_page: int
    page_count: int
    gpa: int
    address: int
    """Where it is mapped in this process."""

    def region(self, flags: int) -> abi.UserspaceMemoryRegion:
        """Return the structure that makes KVM use this slot."""
        size_bytes = self.page_count * 4096
        return abi.UserspaceMemoryRegion(self.number, flags, self.gpa, size_bytes, self.address)


class DirtyLog:
    """Logs writes to the slots of a VM; each slot but the last holds a multiple of 64 pages."""

    def __init__(self, vm: KvmVm, slots: Sequence[Slot], *, manual_protection: bool) -> None:
        self._vm = vm
        self._slots = slots
        self._manual_protection = manual_protection
        if manual_protection:
            vm.enable_capability(abi.CAP_MANUAL_DIRTY_LOG_PROTECT2, abi.DIRTY_LOG_MANUAL_PROTECT_ENABLE)

    def start(self) -> None:
        """Begin to log; nothing is dirty at first."""
        self._set_flags(abi.MEM_LOG_DIRTY_PAGES)

    def stop(self) -> None:
        """End logging; harmless if it is off."""
        self._set_flags(0)

    def collect(self, bitmap: Bitmap) -> None:
        """Overwrite `bitmap` with what was written since the last call."""
        for slot in self._slots:
            words = _words_of(slot, bitmap)
            self._vm.get_dirty_log(slot.number, words)
            if self._manual_protection:
                self._vm.clear_dirty_log(slot.number, slot.page_count, words)

    def _set_flags(self, flags: int) -> None:
        for slot in self._slots:
            self._vm.set_user_memory_region(slot.region(flags))


def _words_of(slot: Slot, bitmap: Bitmap) -> NDArray[np.uint64]:
    first_word = slot.first_page // 64
    return bitmap.words[first_word : first_word + (slot.page_count + 63) // 64]
