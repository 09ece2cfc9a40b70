"""The shipped payload comes from the shipped source, boots under QEMU too, and its check can fail."""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kvm import check, kvm_guest, progress_of, wait_for_work, wait_until
from vmferry.errors import GuestError
from vmferry.experiment.parts import GuestSpec, LoadSpec
from vmferry.guests.kvm.guest import KvmGuest
from vmferry.guests.payload import STRESS_ELF, page_order
from vmferry.guests.payload.build import build, compiler_version, source_digest
from vmferry.guests.payload.invariants import VcpuProgress, expected_stamps, read_progress
from vmferry.guests.payload.page_order import PageOrder, PagePattern
from vmferry.memory.bitmap import Bitmap
from vmferry.simulation.models import workload_of


def test_the_shipped_elf_is_built_from_the_shipped_source(tmp_path: Path) -> None:
    image = STRESS_ELF.read_bytes()
    assert source_digest().encode() in image, "build it anew: python -m vmferry.guests.payload.build"
    build(tmp_path / "again.elf")
    if compiler_version().encode() in image:
        assert (tmp_path / "again.elf").read_bytes() == image


@pytest.mark.qemu
@pytest.mark.parametrize("accelerator", [pytest.param("kvm", marks=pytest.mark.kvm), "tcg"])
def test_it_boots_under_qemu(accelerator: str) -> None:
    command = ["qemu-system-x86_64", "-accel", accelerator, "-m", "128", "-smp", "2", "-nodefaults", "-no-reboot"]
    command += ["-display", "none", "-serial", "stdio", "-kernel", str(STRESS_ELF), "-append", "ramsize=64"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as qemu:
        assert qemu.stdout
        try:
            lines = [qemu.stdout.readline() for _ in range(4)]
        finally:
            qemu.kill()
    assert lines[0] == "stress (00001): INFO: RAM 64 MiB across 2 CPUs\n"
    assert {line[:14] for line in lines[1:]} <= {"stress (00001)", "stress (00002)"}
    assert all("ms copied 1 GB in " in line for line in lines[1:])


def orders(number: int = 3) -> st.SearchStrategy[PageOrder]:
    pages = st.integers(1, 50).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count)))
    return st.builds(
        lambda order, sizes, rounds, share: PageOrder(order, sizes[0], sizes[1], rounds, share, number),
        st.sampled_from(PagePattern),
        pages,
        st.integers(1, 3),
        st.sampled_from([0.0, 0.25, 1.0]),
    )


@given(orders(), st.integers(0, 300))
def test_expected_stamps_are_what_writing_one_by_one_leaves(order: PageOrder, written: int) -> None:
    pages = [0] * order.page_count
    for n in range(1, written + 1):
        pages[int(order.pages_of(np.array([n], np.uint64))[0])] = 3 << 56 | n
    vcpu = VcpuProgress(3, 0, order.page_count, written, order)
    assert expected_stamps(vcpu, written).tolist() == pages


@given(st.integers(1, 50), st.integers(0, 300), st.integers(0, 3))
def test_a_walk_over_all_pages_comes_by_them_in_order(page_count: int, written: int, number: int) -> None:
    order = PageOrder(PagePattern.WALK, page_count, page_count, 1, 0, number)
    assert order.pages_of(np.arange(1, written + 1, dtype=np.uint64)).tolist() == [
        n % page_count for n in range(written)
    ]


def test_stamps_of_more_writes_than_are_looked_at_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    order = PageOrder(PagePattern.HOT_SPOT, 1000, 10, 1, 0.9, 1)
    whole = order.newest_writes(20_000)
    monkeypatch.setattr(page_order, "_CHUNK_WRITES", 64)
    assert order.newest_writes(20_000).tolist() == whole.tolist()


@pytest.mark.kvm
def test_one_old_page_is_noticed() -> None:
    with kvm_guest() as guest:
        guest.resume()
        wait_for_work(guest)
        guest.pause()
        progress = check(guest)
        words = np.frombuffer(guest.physical_memory(progress.base, progress.page_count * 4096), np.uint64)
        number, vcpu = max(enumerate(progress.vcpus), key=lambda each: each[1].written_pages)
        page = vcpu.first_page + (vcpu.written_pages + 5) % vcpu.page_count
        words.reshape(-1, 512)[page, :1] -= np.uint64(vcpu.page_count)
        with pytest.raises(GuestError, match=rf"vCPU {number} has written .* \(1 pages wrong\)"):
            check(guest)


SWEEP = "ramsize=16"
KINDS = {
    "sweep": SWEEP,
    "xor": "ramsize=4 mode=xor",
    "uniform": f"{SWEEP} pattern=uniform",
    "hot-spot": f"{SWEEP} pattern=hot-spot working-set=1 hot-share=75",
    "moving": f"{SWEEP} pattern=moving working-set=2 rounds=3",
    "paced": f"{SWEEP} pattern=uniform pace=20000",
    "bursts": f"{SWEEP} pace=20000 every=100",
    "readers": "vcpus=0 ramsize=8 pattern=read vcpus=1 ramsize=8",
    "filled": "ramsize=4 fill=50",
}
"""One of each kind; the second half of the memory is vCPU 1's."""


@pytest.mark.kvm
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_guest_keeps_its_invariants_and_an_old_page_is_noticed(kind: str) -> None:
    with kvm_guest(line=KINDS[kind]) as guest:
        guest.resume()
        wait_until(lambda: _passes(guest) >= 1)
        guest.pause()
        vcpu = check(guest).vcpus[1]
        words = np.frombuffer(guest.view(0, guest.layout.page_count), np.uint64).reshape(-1, 512)
        newest = vcpu.order.newest_writes(vcpu.written_pages)
        old = (16 << 20) // 4096 + vcpu.first_page + int(np.argsort(newest)[1])
        words[old, 0] ^= 1
        with pytest.raises(GuestError, match=r"vCPU 1 has written .* \(1 pages wrong\)"):
            check(guest)
        words[old, 0] ^= 1
        if vcpu.fill_words or vcpu.flips:
            words[old, 1] ^= 1
            with pytest.raises(GuestError, match="of vCPU 1 was not changed as a whole"):
                check(guest)


def _passes(guest: KvmGuest) -> int:
    try:
        return progress_of(guest).passes
    except GuestError:
        return 0


MIB = 1 << 20
LOADS: dict[str, dict[str, Any]] = {
    "sweep": {"pattern": "sweep"},
    "uniform": {"pattern": "uniform"},
    "hot-spot": {"pattern": "hot-spot", "working_set_bytes": MIB},
    "moving": {"pattern": "moving", "working_set_bytes": 2 * MIB, "rounds": 3},
    "paced": {"pattern": "uniform"},
    "bursts": {"pattern": "sweep"},
}


@pytest.mark.kvm
@pytest.mark.parametrize("kind", LOADS)
def test_a_kind_dirties_as_many_pages_live_as_simulated(kind: str) -> None:
    """Counts, not times: the simulated vCPU is let write as many pages as the real one has.

    How many of n random pages are distinct varies by 1 or 2 %, on both sides.
    """
    with kvm_guest(line=KINDS[kind], vcpu_count=1) as guest:
        log = Bitmap(guest.layout.page_count)
        guest.resume()
        wait_until(lambda: _passes(guest) >= 1)
        guest.pause()
        guest.start_dirty_log()
        before = progress_of(guest).vcpus[0]
        guest.resume()
        wait_until(lambda: progress_of(guest).written_pages > before.written_pages + before.page_count // 2)
        guest.pause()
        guest.collect_dirty(log)
        written = progress_of(guest).written_pages - before.written_pages
    first = (16 << 20) // 4096
    live = int(log.test_pages(np.arange(first, first + before.page_count)).sum())
    assert live == pytest.approx(simulated_pages(LOADS[kind], before.written_pages, written), rel=0.08, abs=3)


def simulated_pages(load: dict[str, Any], before: int, written: int) -> int:
    """Return how many pages a simulated vCPU dirties that writes a page per microsecond, after it has written some."""
    spec = LoadSpec(memory_bytes=16 * MIB, write_bytes_per_s=4096 * 10**6, **load)
    guest = GuestSpec(memory_bytes=64 * MIB, vcpu_count=1, loads=(spec,))
    workload, log = workload_of(guest, np.random.default_rng(1)), Bitmap(guest.page_count)
    workload.let_pass(1000 * before, [1000 * before])
    workload.write(log)
    log.clear_all()
    workload.let_pass(1000 * written, [1000 * written])
    workload.write(log)
    return log.count()


def test_memory_without_a_payload() -> None:
    with pytest.raises(GuestError, match="does not run this stress payload"):
        read_progress(bytes(65536))
