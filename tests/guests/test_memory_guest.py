"""The guest that the engine's tests run on keeps the same contract as real ones."""

import numpy as np

from tests.contracts.guest import GuestContract
from tests.support.memory_guest import MemoryGuest

PAGE_COUNT = 1000


class TestContract(GuestContract):
    def make(self, *, empty: bool = False) -> MemoryGuest:
        self._next = 0
        return MemoryGuest(PAGE_COUNT, running=False)

    def content(self, guest: MemoryGuest) -> np.ndarray:
        return guest.ram.sum(axis=1)

    def let_work(self, guest: MemoryGuest) -> None:
        for _ in range(100):
            self._next += 1
            guest.write(self._next * 7 % PAGE_COUNT, self._next)

    def copy_memory(self, source: MemoryGuest, target: MemoryGuest) -> None:
        target.ram[:] = source.ram
