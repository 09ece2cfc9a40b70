"""KVM guests for tests."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from vmferry.guests.kvm.guest import KvmGuest
from vmferry.guests.payload import STRESS_ELF
from vmferry.guests.payload.invariants import PROGRESS_BYTES, PROGRESS_GPA, StressProgress, check_memory, read_progress

MEMORY_BYTES = 64 << 20
STRESS_MIB = 32


@contextmanager
def kvm_guest(
    *,
    boot: bool = True,
    memory_bytes: int = MEMORY_BYTES,
    vcpu_count: int = 2,
    stress_mib: int = STRESS_MIB,
    options: str = "",
    line: str = "",
) -> Iterator[KvmGuest]:
    """A paused guest, booted with the stress payload or empty; `line` tells all loads."""
    guest = KvmGuest(memory_bytes, vcpu_count)
    try:
        if boot:
            guest.boot(STRESS_ELF.read_bytes(), f"{line or f'ramsize={stress_mib}'} cpus={vcpu_count} {options}")
        yield guest
    finally:
        guest.close()


def progress_of(guest: KvmGuest) -> StressProgress:
    return read_progress(guest.physical_memory(PROGRESS_GPA, PROGRESS_BYTES))


def check(guest: KvmGuest) -> StressProgress:
    return check_memory(guest.view(0, guest.layout.page_count))


def wait_until(condition: Callable[[], bool], timeout_s: float = 60, poll_s: float = 0.005) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(poll_s)


def wait_for_work(guest: KvmGuest, pages: int = 20_000) -> None:
    """Wait until the running guest has written that many pages more."""

    def written() -> int:
        try:
            return progress_of(guest).written_pages
        except Exception:
            return 0

    start = written()
    wait_until(lambda: written() >= start + pages)
