"""The guest that the engine's tests run on keeps the same contract as real ones."""

from vmferry.testing.guest import GuestContentContract, Numbers
from vmferry.testing.memory_guest import MemoryGuest

PAGE_COUNT = 1000


class TestContract(GuestContentContract[MemoryGuest]):
    _next = 0

    def make(self, *, empty: bool = False) -> MemoryGuest:
        return MemoryGuest(PAGE_COUNT, running=False)

    def content(self, guest: MemoryGuest) -> Numbers:
        numbers: Numbers = guest.ram.sum(axis=1)
        return numbers

    def let_time_pass(self) -> None:
        pass

    def let_work(self, guest: MemoryGuest) -> None:
        for _ in range(100):
            self._next += 1
            guest.write(self._next * 7 % PAGE_COUNT, self._next)

    def copy_memory(self, source: MemoryGuest, target: MemoryGuest) -> None:
        target.ram[:] = source.ram
