"""The shipped payload comes from the shipped source, boots under QEMU too, and its check can fail."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.kvm import check, kvm_guest, wait_for_work
from vmferry.errors import GuestError
from vmferry.guests.payload import STRESS_ELF
from vmferry.guests.payload.build import build, compiler_version, source_digest
from vmferry.guests.payload.invariants import VcpuProgress, expected_stamps, read_progress


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


@given(st.integers(1, 50), st.integers(0, 300), st.integers(0, 3))
def test_expected_stamps_are_what_walking_leaves(page_count: int, written: int, number: int) -> None:
    pages = [0] * page_count
    for n in range(written):
        pages[n % page_count] = number << 56 | n + 1
    vcpu = VcpuProgress(number, 0, page_count, written)
    assert expected_stamps(vcpu, written).tolist() == pages


@pytest.mark.kvm
def test_one_old_page_is_noticed() -> None:
    with kvm_guest() as guest:
        guest.resume()
        wait_for_work(guest)
        guest.pause()
        progress = check(guest)
        words = np.frombuffer(guest.physical_memory(progress.base, progress.page_count * 4096), np.uint64)
        vcpu = progress.vcpus[1]
        page = vcpu.first_page + (vcpu.written_pages + 5) % vcpu.page_count
        words.reshape(-1, 512)[page, 0] -= vcpu.page_count
        with pytest.raises(GuestError, match=r"vCPU 1 has written .* \(1 pages wrong\)"):
            check(guest)


def test_memory_without_a_payload() -> None:
    with pytest.raises(GuestError, match="does not run this stress payload"):
        read_progress(bytes(65536))
